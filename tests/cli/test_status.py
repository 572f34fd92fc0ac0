"""What a job tells while it runs: on a terminal, in lines, as JSON, and to another terminal."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from job.helping import command, joycap, make_pictures, start_and_wait_for

from joycap_vllm.cli.panel import frame
from joycap_vllm.cli.wording import line
from joycap_vllm.job import Figures
from joycap_vllm.job.standing import standing_of

from fault_server import FaultServer, fail, name_of, say, serving, truthful
from terminal import on_terminal, read_terminal


@pytest.fixture
def slow_server() -> Iterator[FaultServer]:
    with serving(lambda asked: say(name_of(asked.color), delay=0.4)) as server:
        server.gauges = (3, 1)
        yield server


def status(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(joycap("status", folder, "--json").stdout)
    return told


def wait_for(folder: Path, test: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status that fits, straight from the function behind the command."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = standing_of(folder / ".joycap").as_json()
        if told["running"] and test(told):
            return told
        time.sleep(0.05)
    raise AssertionError("no such status came")


def test_status_follows_a_job_through_its_work_its_death_and_its_end(
    tmp_path: Path, slow_server: FaultServer
) -> None:
    make_pictures(tmp_path, 200)
    process = start_and_wait_for(tmp_path, slow_server, 12)
    seen = wait_for(tmp_path, lambda t: t["total"]["done"] > 4 and t["total"]["running"])
    shown = joycap("status", tmp_path).stdout
    process.kill()
    process.communicate(timeout=10)
    slow_server.script = truthful
    killed, said = status(tmp_path), joycap("status", tmp_path).stdout
    joycap("caption", tmp_path, "--base-url", slow_server.url, "--no-check")
    ended = status(tmp_path)

    (writer,) = seen["writers"]
    assert (writer["state"], writer["pid"]) == ("running", process.pid)
    assert writer["urls"] == [slow_server.url]
    assert (seen["total"]["total"], seen["total"]["capacity"]) == (200, 4)
    assert (seen["total"]["running"], seen["total"]["waiting"]) == (3, 1)
    assert "running" in shown
    assert "of 200 done" in shown
    assert slow_server.url in shown
    assert (killed["running"], killed["writers"][0]["state"]) == (0, "killed")
    assert 0 < killed["recorded"]["ok"] < 200
    assert "nobody is at work" in said
    assert "same `joycap caption` command" in said
    assert ended["writers"][0]["state"] == "ended"
    assert ended["writers"][0]["ended"] == "done"
    assert ended["recorded"] == {"ok": 200}


def test_status_tells_what_is_waited_for_and_how_it_ended(tmp_path: Path) -> None:
    make_pictures(tmp_path, 8)
    server = FaultServer(lambda asked: say(name_of(asked.color), delay=0.2))
    process = start_and_wait_for(tmp_path, server, 4)
    server.close()
    seen = wait_for(tmp_path, lambda t: str(server.port) in t["total"]["waiting_for"])
    process.terminate()
    process.communicate(timeout=20)

    assert "cannot connect" in seen["total"]["waiting_for"]
    assert status(tmp_path)["writers"][0]["ended"] == "interrupted"


def test_shards_are_summed(tmp_path: Path, slow_server: FaultServer) -> None:
    make_pictures(tmp_path, 200)
    flags = ["--base-url", slow_server.url, "--no-check", "--concurrency", "2"]
    jobs = [
        subprocess.Popen(
            command("caption", tmp_path, *flags, "--shard", f"{part}/2"), stderr=subprocess.PIPE
        )
        for part in (1, 2)
    ]
    seen = wait_for(
        tmp_path, lambda t: t["running"] == 2 and t["total"]["total"] == 200 and t["total"]["done"]
    )
    for process in jobs:
        process.kill()
        process.communicate(timeout=10)

    each = [writer["figures"] for writer in seen["writers"]]
    assert {writer["shard"] for writer in seen["writers"]} == {"1/2", "2/2"}
    assert seen["total"]["done"] == sum(figures["done"] for figures in each)
    assert seen["total"]["in_flight"] == sum(figures["in_flight"] for figures in each)


def test_status_says_where_there_is_no_job(tmp_path: Path) -> None:
    assert "no job" in joycap("status", tmp_path, code=2).stderr


def test_status_reads_folders_that_only_others_may_write(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    joycap("caption", tmp_path, "--base-url", server.url, "--no-check")
    state = tmp_path / ".joycap"
    before = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}
    state.chmod(0o555)
    for path in state.iterdir():
        path.chmod(0o444)
    told = status(state)
    state.chmod(0o755)

    assert told["recorded"] == {"ok": 2}
    assert {path.name: path.stat().st_mtime_ns for path in state.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"ended": 1, "figures": {"done": -1}}'])
def test_a_damaged_status_file_hides_no_job(
    tmp_path: Path, server: FaultServer, content: bytes
) -> None:
    state = tmp_path / ".joycap"
    state.mkdir()
    (state / "journal-host-1.jsonl").write_text('{"key":"a","prompt":"d","outcome":"ok"}\n')
    (state / "status-host-1.json").write_bytes(content)
    found = standing_of(state)

    assert found.recorded == {"ok": 1}
    assert not found.at_work


def test_a_status_file_that_cannot_be_written_never_hurts_the_job(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    joycap("caption", tmp_path, "--base-url", server.url, "--no-check")
    (file,) = (tmp_path / ".joycap").glob("status-*.json")
    file.unlink()
    file.mkdir()
    again = joycap("caption", tmp_path, "--base-url", server.url, "--no-check")

    assert "2 skipped" in again.stderr


def test_json_lines_are_all_there_is_on_stderr(tmp_path: Path) -> None:
    def script(asked: Any) -> Any:
        refuses = name_of(asked.color) == name_of((1, 7, 50))
        return say("I'm sorry, but I can't help with that." if refuses else name_of(asked.color))

    make_pictures(tmp_path, 4)
    odd = os.fsdecode(b"\xff odd\n.png")
    (tmp_path / odd).write_bytes(b"")
    with serving(script) as server:
        done = joycap(
            "caption", tmp_path, "--base-url", server.url, "--log-format", "json", "--retries", "0",
            "--wire", "png",
            code=1,
        )  # fmt: skip
    said = [json.loads(row) for row in done.stderr.splitlines()]
    problems = {row["outcome"]: row for row in said if row["event"] == "problem"}
    summary = said[-1]

    assert all({"t", "level", "event", "text"} <= row.keys() for row in said)
    assert problems["glitched"]["glitch"] == "refusal"
    assert problems["failed"]["key"].endswith("odd\n.png")
    assert "empty" in problems["failed"]["why"]
    assert (summary["event"], summary["level"]) == ("summary", "warning")
    assert (summary["ok"], summary["glitched"], summary["failed"]) == (3, 1, 1)
    assert summary["journal"] == str(tmp_path / ".joycap")
    assert any("joycap retry" in command for command in summary["next"])


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["caption", "--log-format", "json", "/nowhere/at/all"], 2, "does not exist"),
        (["caption", "--nonsense", ".", "--log-format=json"], 2, "--nonsense"),
        (["caption", "--log-format", "json", "--top-p", "7", "."], 2, "top-p"),
        (["retry", "--log-format", "json", "/nowhere/at/all"], 2, "no journal"),
    ],
)
def test_errors_are_json_lines_too(arguments: list[str], code: int, text: str) -> None:
    (error,) = [json.loads(row) for row in joycap(*arguments, code=code).stderr.splitlines()]

    assert (error["event"], error["level"], error["exit_code"]) == ("error", "error", code)
    assert text in error["text"]


def test_off_a_terminal_a_silent_server_is_told_of_within_ten_seconds(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    with serving(lambda asked: say("late", delay=60)) as server:
        began = time.monotonic()
        process = subprocess.Popen(
            command("caption", tmp_path, "--base-url", server.url, "--no-check"),
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = b""
        while b" of 4 done" not in said:
            said += process.stderr.readline()
            assert time.monotonic() - began < 15, said
        process.kill()
        process.communicate(timeout=10)

    assert b"in flight" in said
    assert b"\r" not in said


def test_while_the_check_lasts_it_says_what_is_waited_for(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    with serving(lambda asked: say("late", delay=60)) as server:
        process = subprocess.Popen(
            command("caption", tmp_path, "--base-url", server.url, "--log-format", "json"),
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        rows = (json.loads(row) for row in process.stderr)
        progress = next(row for row in rows if row["event"] == "progress")
        process.kill()
        process.communicate(timeout=10)

    assert progress["waiting_for"] == "the servers to pass their check"
    assert progress["waiting_seconds"] > 1


@pytest.mark.parametrize(("columns", "encoding"), [(120, "utf-8"), (34, "utf-8"), (80, "ascii")])
def test_a_terminal_shows_a_panel_whatever_it_is_able_to(
    tmp_path: Path, slow_server: FaultServer, columns: int, encoding: str
) -> None:
    make_pictures(tmp_path, 6)
    process, ours = on_terminal(
        command(
            "caption", tmp_path, "--base-url", slow_server.url, "--no-check", "--concurrency", "2"
        ),
        columns,
        PYTHONIOENCODING=encoding,
    )
    shown = read_terminal(process, ours)

    assert "joycap caption" in shown
    assert "6 captions: 6 ok" in " ".join(shown.split())
    assert encoding != "ascii" or shown.isascii()


@pytest.mark.parametrize("width", [20, 40, 71, 72, 200])
@pytest.mark.parametrize("height", [3, 24])
def test_the_panel_fits_its_terminal(width: int, height: int) -> None:
    from rich.console import Console

    figures = Figures(
        done=4_999_999, total=5_000_000, counting=True, capacity=512, in_flight=512,
        tokens={"prompt": 10**10, "cached": 9 * 10**9, "completion": 10**9}, running=500,
        waiting=12, glitches={"refusal": 5, "repetition": 7}, waiting_for="x\x1b[2Jy" * 9,
    )  # fmt: skip
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(frame(figures, width, height))
    rows = capture.get().splitlines()

    assert all(len(row) <= width for row in rows)
    assert height == 24 or len(rows) == 1
    assert "\x1b" not in capture.get()
    assert line(figures).startswith("4,999,999 of about 5,000,000 done (99.9%)")


def test_a_refusing_server_is_summed_up_by_reason(tmp_path: Path) -> None:
    make_pictures(tmp_path, 6)
    with serving(lambda asked: fail(400, f"no {asked.image[-9:]}")) as server:
        done = joycap("caption", tmp_path, "--base-url", server.url, "--no-check", code=1)

    assert "6 captions: 0 ok, 0 skipped, 0 glitched, 6 failed" in done.stderr
    assert "6 requests" in done.stderr
    assert f"joycap retry {tmp_path}" in done.stderr
