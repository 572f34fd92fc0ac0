"""The command line as users meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image
from rich.text import Text

from joycap_vllm.cli import app, with_default_model
from joycap_vllm.prompts import build_prompt

from fault_server import FaultServer, say
from forking import run_joycap

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def joycap(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_joycap(arguments)
    assert done.returncode == code, done.stderr
    return done


def flags() -> list[Any]:
    return [
        pytest.param(parameter, id=f"{name} {parameter.opts[0]}")
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
    ]


@pytest.mark.parametrize("flag", flags())
def test_every_flag_has_an_environment_variable_of_its_name(flag: Any) -> None:
    names = [flag.envvar] if isinstance(flag.envvar, str) else list(flag.envvar or [])
    long = [opt for opt in flag.opts + flag.secondary_opts if opt.startswith("--")]
    expected = {f"JOYCAP_{opt[2:].upper().replace('-', '_')}" for opt in long}

    assert expected & set(names), f"{long} has {names}"


@pytest.mark.parametrize("flag", flags())
def test_every_flag_explains_itself(flag: Any) -> None:
    assert flag.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert f"joycap {name}" in README


def test_the_readme_knows_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)

    assert rows == ["0", "1", "2", "3", "4", "5", "130"]


def test_prompts_prints_the_exact_text_that_will_be_sent() -> None:
    done = joycap("prompts", "straightforward", "--words", "50", "--extra", "lighting")

    expected = build_prompt("straightforward", words=50, extras=["lighting"]).text
    assert done.stdout == expected + "\n"


def test_prompts_shows_the_whole_table() -> None:
    shown = joycap("prompts").stdout

    assert shown.count("any:") == 12
    assert " 27 no-meta-phrases:" in shown
    assert "8789c1c" in shown


def test_lint_gives_a_line_for_each_row_and_exits_1_for_glitches(tmp_path: Path) -> None:
    rows = [
        {"text": "A red square on a white ground."},
        {"text": "1girl, solo", "style": "tags"},
        {"text": "I'm sorry, but I can't help with that."},
        {"text": "A dog.", "finish_reason": "length"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    done = joycap("lint", "--jsonl", file, code=1)
    said = [json.loads(line) for line in done.stdout.splitlines()]

    assert [row["glitch"] for row in said] == [None, None, "refusal", "truncated"]
    assert [row["ref"] for row in said] == [1, 2, 3, 4]
    assert "4 captions, 2 glitches" in done.stderr


def test_lint_walks_folders_of_sidecars(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A dog sleeps.")
    (tmp_path / "b.txt").write_text("")
    done = joycap("lint", tmp_path, code=1)

    assert [json.loads(row)["glitch"] for row in done.stdout.splitlines()] == [None, "empty"]


def test_doctor_says_whether_a_server_is_fit(server: FaultServer) -> None:
    told = joycap("doctor", "--base-url", server.url).stdout

    assert "fit, model fault" in told
    assert "asked again, alone: " in told
    assert "megapixels a second" in told
    joycap("doctor", "--base-url", "http://127.0.0.1:9/v1", code=3)


def test_serve_without_a_value_takes_the_default_model() -> None:
    assert with_default_model(["caption", "x", "--serve"])[-1] == "default"
    assert with_default_model(["caption", "--serve", "--dual", "x"])[2] == "default"
    assert with_default_model(["caption", "--serve", "nano", "x"]) == [
        "caption", "--serve", "nano", "x",
    ]  # fmt: skip


def test_flags_may_come_from_the_environment(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("JOYCAP_TYPE", "straightforward booru-like-tag-list")
    monkeypatch.setenv("JOYCAP_EXT", "caption")
    monkeypatch.setenv("JOYCAP_CHECK", "0")
    joycap("caption", tmp_path)

    assert {p.name for p in tmp_path.iterdir()} == {
        ".joycap", "a.png", "a.caption", "a.booru-like-tag-list.caption",
    }  # fmt: skip
    assert len(server.asked) == 2


def test_tags_in_the_environment_may_hold_spaces(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    server.script = lambda _: say("1girl, long hair, plain picture, smile")
    monkeypatch.setenv("JOYCAP_ALWAYS_FIRST", "long hair,smile")
    monkeypatch.setenv("JOYCAP_UNDESIRED", "plain picture\nshort hair")
    joycap(
        "caption", tmp_path, "--base-url", server.url, "--type", "booru-like-tag-list", "--no-check"
    )

    assert (tmp_path / "a.txt").read_text() == "long hair, smile, 1girl"


def in_shell(tail: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = "from joycap_vllm.cli import main; main()"
    shell = ["sh", "-c", f'"$@" {tail}', "sh", sys.executable, "-c", call, *map(str, arguments)]
    return subprocess.run(shell, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("arguments", [["lint", "FOLDER"], ["prompts"], ["--help"], ["--version"]])
def test_an_output_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("A red square lies on a white ground.")
    done = in_shell(">/dev/full", *(str(tmp_path) if a == "FOLDER" else a for a in arguments))

    assert done.stderr == "joycap: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


def test_a_closed_stream_is_like_dev_null(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A red square lies on a white ground.")
    journal = tmp_path / "journal-host-1.jsonl"
    journal.write_text('{"key": "a", "prompt": "d", "outcome": "failed"}\n')
    judged, told = in_shell(">&-", "lint", tmp_path), in_shell(">&-", "report", journal)

    assert (judged.returncode, told.returncode) == (0, 0)
    assert "1 captions, 0 glitches" in judged.stderr
    assert "1 tasks: 1 failed" in told.stderr
    assert json.loads(in_shell("2>&- <&-", "lint", tmp_path).stdout)["ok"]


def test_a_wrong_use_names_what_is_wrong_and_what_there_is() -> None:
    assert "there are: descriptive" in joycap("prompts", "nonsense", code=2).stderr
    assert "lighting" in joycap("prompts", "descriptive", "--extra", "ligthing", code=2).stderr


def test_helps_are_shown_as_they_are_written() -> None:
    groups = [*COMMANDS.values(), *getattr(COMMANDS["batch"], "commands", {}).values()]
    helps = [p.help for group in groups for p in group.params if getattr(p, "help", None)]

    assert [text for text in helps if Text.from_markup(text).plain != text] == []
