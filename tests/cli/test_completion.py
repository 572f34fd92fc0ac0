"""Tab in real shells: what they offer is what the command knows."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joycap_vllm.cli import completing
from joycap_vllm.errors import UsageError
from joycap_vllm.prompts import build_prompt, load_table
from joycap_vllm.server import read_machine

from terminal import on_terminal

JOYCAP = Path(sys.executable).parent / "joycap"
pytestmark = pytest.mark.skipif(
    not JOYCAP.exists() and not os.environ.get("CI"), reason="joycap is not installed here"
)


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{JOYCAP.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ZDOTDIR", raising=False)
    return tmp_path


class Typist:
    """Types on a terminal, and reads it on to what is waited for."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def read_until(self, marker: str) -> None:
        deadline = time.monotonic() + 20
        while marker not in self._shown:
            assert time.monotonic() < deadline, (marker, self._shown)
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._shown += os.read(self._terminal, 65536).decode("utf-8", "replace")
        self._shown = self._shown.partition(marker)[2]


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_what_is_installed_completes_at_tab_in_an_interactive_shell(name: str, home: Path) -> None:
    program = shell(name)
    installed = subprocess.run(
        [program, "-c", "joycap --install-completion; true"],
        capture_output=True, text=True, timeout=30, cwd=home,
    )  # fmt: skip
    assert f"{name} completion installed in" in installed.stdout, installed
    process, terminal = on_terminal([program, "-i"], 200)
    try:
        typist = Typist(terminal)
        typist.type("PS1='here''> '\n")
        typist.read_until("here> ")
        typist.type("joycap prompts strai")
        typist.read_until("strai")  # the line editor is at work
        # zsh loads what completes at the first Tab, and asks it from the second on.
        typist.type("\t\t" if name == "zsh" else "\t")
        typist.read_until("ghtforward")
        typist.type("\n")
        typist.read_until("Write a straightforward caption for this image")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize(("typed", "offered"), [
    ("joycap stat", {"status"}),
    ("joycap caption --type des", {"descriptive", "descriptive-casual"}),
    ("joycap caption --length very", {"very-short", "very-long"}),
    ("joycap caption --extra li", {"lighting", "light-sources"}),
    ("joycap caption --format pa", {"parquet"}),
    ("joycap caption --again a", {"all"}),
    ("joycap retry photos --only ref", {"refusal"}),
    ("joycap serve --machine h1", {"h100"}),
    ("joycap batch exp", {"export"}),
])  # fmt: skip
def test_bash_offers_commands_and_values(typed: str, offered: set[str], home: Path) -> None:
    script = (
        'source <(joycap --show-completion); read -ra COMP_WORDS <<< "$1"; '
        "COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _joycap_completion joycap; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", script, "bash", typed],
        capture_output=True, text=True, timeout=30, cwd=home, check=True,
    )  # fmt: skip

    assert set(done.stdout.split()) == offered


def test_fish_offers_values_with_what_they_mean(home: Path) -> None:
    script = 'joycap --show-completion | source; complete -C "joycap caption --extra li"'
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", script],
        capture_output=True, text=True, timeout=30, cwd=home, check=True,
    )  # fmt: skip

    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [
        "lighting", "light-sources",
    ]  # fmt: skip
    assert "lighting\tInclude information about lighting." in done.stdout


def test_every_value_that_is_offered_is_taken() -> None:
    for name, _ in completing.caption_types(""):
        for length, _ in completing.lengths(""):
            assert build_prompt(name, length=length).text
    for option, _ in completing.extra_options(""):
        assert build_prompt("descriptive", extras=[option], name="Ann").text
    for machine, _ in completing.machines(""):
        assert read_machine(machine).gpus
    assert len(completing.extra_options("")) == len(load_table().extras)
    with pytest.raises(UsageError):
        build_prompt("descriptive", length="very-very-long")
