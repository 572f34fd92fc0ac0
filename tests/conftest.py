"""What all tests share: an environment without the developer's own settings."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_server import FaultServer, serving

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background so, and all children would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # So does nohup; a handler that does nothing is not handed down.
    signal.signal(signal.SIGHUP, lambda *_: None)

# With this each of several hundred processes would compile the package for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MARKS = ("engine", "ray", "release")
FIXTURES = {"browser", "apart", "captioned", "installed"}


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks when its turn comes
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps tests that share something costly in one process where several run them."""
    for item in items:
        marks = [mark for mark in MARKS if item.get_closest_marker(mark)]
        shared = marks or sorted(FIXTURES.intersection(getattr(item, "fixturenames", ())))
        if shared:
            item.add_marker(pytest.mark.xdist_group(shared[0]))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("JOYCAP_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server that captions every picture with its colour."""
    with serving() as running:
        yield running
