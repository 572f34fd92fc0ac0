"""What the tests of deaths share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .lives import Job
from .server import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that takes a moment for each answer."""
    with ServerProcess(tmp_path / "log", (0.01, 0.04)) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, server: ServerProcess) -> Job:
    """Two dozen pictures, four asked at once."""
    return Job(tmp_path / "pictures", server, flags=["--concurrency", "4"])
