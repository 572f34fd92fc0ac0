"""Every joycap command line and variable under deploy/ is one that exists."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.server.values import Plan

Check = Callable[[list[str]], None]


def command_lines(text: str) -> list[list[str]]:
    """What follows `joycap` on each line, also where the word stands as an image's name."""
    whole = text.replace("\\\n", " ")
    found = re.findall(r"(?:^|[\s`/])joycap ((?:[a-z]+)\b[^\n`]*)", whole, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("name", ["README.md", "docker/README.md", "systemd/README.md"])
def test_command_lines_in_a_readme_use_flags_that_exist(
    deploy: Path, check_command: Check, name: str
) -> None:
    text = (deploy / name).read_text(encoding="utf-8")
    quoted = "\n".join(re.findall(r"```\n.*?```|`[^`\n]+`", text, re.DOTALL))
    lines = command_lines(quoted)

    assert lines
    for words in lines:
        check_command(words)


def test_every_folder_is_in_the_index_and_says_what_was_tried(deploy: Path) -> None:
    index = (deploy / "README.md").read_text(encoding="utf-8")
    for folder in (path for path in deploy.iterdir() if path.is_dir()):
        assert f"({folder.name}/README.md)" in index
        assert "## What was tried" in (folder / "README.md").read_text(encoding="utf-8")


def test_variables_that_are_named_are_variables_of_the_commands(
    deploy: Path, commands: dict[str, Any]
) -> None:
    known: set[str] = set()
    for command in commands.values():
        for param in command.params:
            names = param.envvar or []
            known.update([names] if isinstance(names, str) else names)
    for path in deploy.rglob("*"):
        if path.is_file():
            named = set(re.findall(r"\bJOYCAP_[A-Z_]+\b", path.read_text(encoding="utf-8")))
            assert named <= known, path


def test_the_unit_runs_a_command_that_exists_and_waits_for_it_to_drain(
    deploy: Path, check_command: Check
) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(deploy / "systemd" / "joycap-serve.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])

    assert Path(program).name == "joycap"
    check_command(words)
    assert float(service["TimeoutStopSec"]) > Plan.grace
    assert "Install" in unit
