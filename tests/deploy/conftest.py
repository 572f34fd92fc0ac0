"""What tests of deploy/ share: the folder, and the real commands of `joycap`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


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
        command: Any = commands.get(words[0])
        while hasattr(command, "commands"):
            words = words[1:]
            command = command.commands.get(words[0])
        assert command is not None, words
        options = {flag for param in command.params for flag in param.opts + param.secondary_opts}
        flags = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}
        assert flags <= options | {"--help"}, flags - options

    return check
