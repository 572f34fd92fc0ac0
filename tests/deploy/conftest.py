"""What under deploy/ can be read here: YAML and units need a reader that may not be installed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_LEFT_OUT = {
    "test_compose.py": (importlib.util.find_spec("yaml"), "pyyaml"),
    "test_systemd.py": (shutil.which("systemd-analyze"), "systemd-analyze"),
}
collect_ignore = [name for name, (reader, _) in _LEFT_OUT.items() if reader is None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in collect_ignore:
        terminalreporter.write_line(f"tests/deploy/{name} left out: no {_LEFT_OUT[name][1]} here")


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def commands() -> dict[str, Any]:
    """The real commands of `joycap`, by name."""
    from typer.main import get_command

    from joycap_vllm.cli import app

    group: Any = get_command(app)
    found: dict[str, Any] = group.commands
    return found


@pytest.fixture(scope="session")
def check_command(commands: dict[str, Any]) -> Callable[[list[str]], None]:
    """Fails unless the words behind `joycap` are a command with flags that it has."""

    def check(words: list[str]) -> None:
        assert words[0] in commands
        options = {flag for param in commands[words[0]].params for flag in param.opts}
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= options | {"--help"}

    return check
