"""`joycap serve` as users call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from server_help import COMMAND
from typer.testing import CliRunner, Result

from joycap_vllm.cli.serve import DEFAULT_MODEL, serve
from joycap_vllm.errors import UsageError
from joycap_vllm.server import DEFAULT_MODEL as THE_MODEL
from joycap_vllm.server import Change, Plan, Record, ServeOptions, State, command, facade
from joycap_vllm.server.known import machine

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on a machine with an H100 and vLLM."""
    gpu = machine(("NVIDIA H100", 79.6, (9, 0)))
    monkeypatch.setattr(facade, "look", lambda: gpu)
    monkeypatch.setattr(command, "_remembered", lambda _: COMMAND)
    app = typer.Typer()
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
    return lambda *words, **env: CliRunner().invoke(app, words, env=env)


def test_both_places_know_the_same_default_model() -> None:
    assert DEFAULT_MODEL == THE_MODEL


def test_a_dry_run_prints_the_plan_on_stdout(run: Run) -> None:
    result = run("--dry-run")

    assert result.exit_code == 0
    assert f"model   {DEFAULT_MODEL}, served as joycaption" in result.stdout
    assert "= 1803 tokens" in result.stdout
    assert result.stderr == ""


def test_flags_behind_two_dashes_go_to_vllm(run: Run) -> None:
    with_model = run("--dry-run", "some/model", "--", "--seed", "1").stdout
    without = run("--dry-run", "--", "--seed", "1").stdout

    assert "vllm serve some/model " in with_model
    assert f"vllm serve {DEFAULT_MODEL} " in without
    assert with_model.rstrip().endswith("--seed 1")
    assert without.rstrip().endswith("--seed 1")


def test_the_shell_command_has_its_notes_as_comments(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facade, "look", machine)
    result = run("--shell", "bash")

    assert "vllm serve" in result.stdout
    assert result.stdout.startswith("# no GPU is visible here")
    assert "note:" not in result.stdout


def test_without_vllm_the_shell_command_still_comes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_remembered", lambda _: None)

    assert "vllm serve" in run("--shell", "bash").stdout
    assert isinstance(run().exception, UsageError)


def test_docker_is_planned_where_it_is_not_installed_but_not_started(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)

    assert "docker is not installed here" in run("--engine", "docker", "--dry-run").stdout
    assert "docker is not installed here" in str(run("--engine", "docker").exception)


def test_every_option_can_come_from_the_environment(run: Run) -> None:
    result = run("--dry-run", JOYCAP_PORT="9123", JOYCAP_MAX_NUM_SEQS="5")

    assert "http://127.0.0.1:9123/v1" in result.stdout
    assert "--max-num-seqs 5" in result.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--host", "0.0.0.0"), "--insecure"),
        (("--gpus", "one"), "--gpus takes numbers"),
        (("--gpus", "0,0"), "twice"),
        (("--replicas", "0"), "--replicas takes auto"),
        (("--lora", "nameless"), "--lora takes NAME=PATH"),
        (("--lora", "x=/no/adapter"), "no adapter_config.json is there"),
        (("nan",), "did you mean nano?"),
        (("no-such-model",), "a name on the hub is written owner/name"),
        (("--api-key-file", "/no/such/file"), "could not be read"),
    ],
)
def test_wrong_usage_is_told(run: Run, words: tuple[str, ...], complaint: str) -> None:
    error = run(*words).exception

    assert isinstance(error, UsageError)
    assert complaint in str(error)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ((), "http://127.0.0.1:8000/v1\nhttp://127.0.0.1:8001/v1\n"),
        (("--json",), '["http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"]\n'),
    ],
)
def test_ready_servers_are_printed_on_stdout_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], printed: str
) -> None:
    urls = ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1")

    async def served(
        plan: Plan,
        *,
        on_line: Callable[[str], None],
        on_ready: Callable[[tuple[str, ...]], None],
        on_change: Callable[[Change], None],
        record: Record,
    ) -> int:
        on_line("Loading weights")
        on_change(Change(urls[0], State.READY, "", "", "x.log", 0, 1.0))
        on_ready(urls)
        return 0

    monkeypatch.setattr("joycap_vllm.server.serve_until_stopped", served)
    result = run(*words)

    assert result.exit_code == 0
    assert result.stdout == printed
    assert "Loading weights" in result.stderr
    if words:
        events = [json.loads(line) for line in result.stderr.splitlines()]
        assert [event["event"] for event in events][-3:] == ["log", "ready", "all ready"]


def test_an_api_key_is_read_from_its_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-secret\n", encoding="utf-8")
    result = run("--dry-run", "--host", "0.0.0.0", "--api-key-file", str(file))

    assert result.exit_code == 0
    assert "VLLM_API_KEY=" in result.stdout
    assert "a-secret" not in result.stdout


def test_the_options_hide_the_key() -> None:
    assert "a-secret" not in repr(ServeOptions(api_key="a-secret"))
