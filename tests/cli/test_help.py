"""`--help` teaches: what a command is for, examples, exit codes, environment and files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from joycap_vllm import cli
from joycap_vllm.cli.teaching import help_of

from fault_server import FaultServer
from forking import run_joycap

COMMANDS = [
    "caption", "serve", "prompts", "lint", "retry", "report", "status", "export", "doctor", "top",
    "gateway", "bench", "batch export", "batch import",
]  # fmt: skip


def help_text(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    monkeypatch.setenv("COLUMNS", "400")
    return run_joycap([*command.split(), "--help"]).stdout


def test_every_command_is_among_those_that_are_looked_at() -> None:
    assert [*cli._COMMANDS] == [name for name in COMMANDS if " " not in name]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_purpose_examples_exit_codes_and_environment(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_text(command, monkeypatch)
    examples = [line.strip() for line in text.splitlines() if line.startswith("   joycap ")]

    assert re.search(r"Examples?:", text)
    assert re.search(r"Exit codes: .*2 ", text) or "as those of `joycap caption`" in text
    assert "Environment: every flag as JOYCAP_" in text
    assert any(example.startswith(f"joycap {command}") for example in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_examples_exist(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_text(command, monkeypatch)
    known = set(re.findall(r"--[a-z][a-z-]*", text.partition("Exit codes")[2]))
    for line in text.splitlines():
        if line.strip().startswith(f"joycap {command} "):
            words = shlex.split(line.strip().partition(" -- ")[0])
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert flags <= known, line


def test_paragraphs_are_broken_by_the_terminal_alone() -> None:
    for line in help_of("report", cli._COMMANDS["report"]).splitlines():
        assert not line or len(line) > 60 or line.startswith("  ") or line.endswith(":")


def test_files_that_help_names_are_where_it_says(tmp_path: Path, server: FaultServer) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    run_joycap(["caption", tmp_path, "--base-url", server.url, "--no-check"])
    text = help_of("caption", cli._COMMANDS["caption"])
    named = re.findall(r"(?:DIR/\.joycap/)?[a-z]+-\*\.jsonl?|job\.json", text)

    assert len(named) == 3
    for pattern in named:
        assert [*(tmp_path / ".joycap").glob(pattern.rpartition("/")[2])], pattern
