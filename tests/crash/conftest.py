"""What the tests of deaths share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .lives import Job
from .server import ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives whole lives of a process the time that a busy machine takes for them."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(240))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that takes a moment for each answer."""
    with ServerProcess(tmp_path / "log", (0.01, 0.04)) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, server: ServerProcess) -> Job:
    """Two dozen pictures, four asked at once."""
    return Job(tmp_path / "pictures", server, flags=["--concurrency", "4"])
