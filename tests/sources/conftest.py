"""Fixtures of the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .helping import Web, web_server


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server that does as it is told."""
    with web_server() as running:
        yield running
