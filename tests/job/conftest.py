"""What the tests of jobs share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _lossless_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault server tells pictures by their exact colour, which JPEG moves a little."""
    monkeypatch.setenv("JOYCAP_WIRE", "png")
