"""How fast this machine prepares pictures."""

from __future__ import annotations

import math

from joycap_vllm.bench import pictures_per_second


async def test_pictures_are_prepared_for_as_long_as_asked_and_one_at_least() -> None:
    assert 0 < await pictures_per_second(0.0) < math.inf
