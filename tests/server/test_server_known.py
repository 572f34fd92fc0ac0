"""Machines by the names of their GPUs."""

from __future__ import annotations

import pytest

from joycap_vllm.errors import UsageError
from joycap_vllm.server.known import CARDS, read_machine


def test_a_machine_is_read_from_the_names_of_its_gpus() -> None:
    mixed = read_machine("RTX-4090x2, rtx-3090")

    assert [gpu.name for gpu in mixed.gpus] == [
        *[CARDS["rtx-4090"][0]] * 2,
        CARDS["rtx-3090"][0],
    ]
    assert [gpu.index for gpu in mixed.gpus] == [0, 1, 2]
    assert len(read_machine("h100x8").gpus) == 8


@pytest.mark.parametrize("text", ["", "rtx", "rtx-4090x", "h100x0", "h100x65", "h100;", "h100 x8"])
def test_what_is_no_machine_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="--machine"):
        read_machine(text)
