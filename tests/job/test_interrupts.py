"""Jobs that are interrupted, killed, or left by their server."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helping import (
    caption,
    color_of,
    command,
    joycap,
    make_pictures,
    records,
    sidecar,
    start_and_wait_for,
)
from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving


@pytest.fixture
def slow_server() -> Iterator[FaultServer]:
    with serving(lambda asked: say(name_of(asked.color), delay=0.4)) as server:
        yield server


def test_the_first_interrupt_finishes_what_is_in_flight(
    tmp_path: Path, slow_server: FaultServer
) -> None:
    make_pictures(tmp_path, 40)
    process = start_and_wait_for(tmp_path, slow_server, 6)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    summary = json.loads(out.splitlines()[-1])

    assert process.returncode == 130
    assert "stopping" in err
    assert summary["ok"] == len(slow_server.asked) == len(records(tmp_path)) < 40
    assert len(list(tmp_path.rglob("*.txt"))) == summary["ok"]


def test_the_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    make_pictures(tmp_path, 10)
    with serving(lambda asked: say("late", delay=30)) as server:
        process = start_and_wait_for(tmp_path, server, 4)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 130, err


def test_killed_at_any_moment_the_same_command_goes_on(
    tmp_path: Path, slow_server: FaultServer
) -> None:
    pictures = make_pictures(tmp_path, 40)
    for count in (5, 14, 22):
        process = start_and_wait_for(tmp_path, slow_server, count)
        process.kill()
        process.communicate(timeout=10)
    summary = caption(tmp_path, slow_server, "--no-check")
    done = [(r["key"], r["prompt"]) for r in records(tmp_path)]

    assert summary["ok"] + summary["skipped"] == 40
    assert len(done) == len(set(done)) == 40
    assert len(slow_server.asked) <= 40 + 3 * 8, "only what was in flight or unsynced is repeated"
    for number, path in enumerate(pictures):
        assert sidecar(path).read_text() == name_of(color_of(number))
    assert len(list(tmp_path.rglob(".*joycap-tmp"))) <= 3


def test_a_second_process_on_the_same_job_is_refused(
    tmp_path: Path, slow_server: FaultServer
) -> None:
    make_pictures(tmp_path, 20)
    process = start_and_wait_for(tmp_path, slow_server, 4)
    second = joycap("caption", tmp_path, "--base-url", slow_server.url, code=2)
    process.kill()
    process.communicate(timeout=10)

    assert "another joycap is at work" in second.stderr


def test_a_server_that_goes_away_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    make_pictures(tmp_path, 24)
    server = FaultServer(lambda asked: say(name_of(asked.color), delay=0.2))
    process = start_and_wait_for(tmp_path, server, 6)
    server.close()
    back = FaultServer(port=server.port)
    out, err = process.communicate(timeout=40)
    back.close()

    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["ok"] == 24


def test_a_server_that_stays_away_ends_the_job_with_exit_code_3(tmp_path: Path) -> None:
    make_pictures(tmp_path, 24)
    server = FaultServer(lambda asked: say(name_of(asked.color), delay=0.2))
    flags = ["--base-url", server.url, "--patience", "0.5", "--concurrency", "2", "--no-check"]
    process = subprocess.Popen(
        command("caption", tmp_path, *flags), stderr=subprocess.PIPE, text=True
    )
    while len(server.asked) < 6:
        time.sleep(0.01)
    server.close()
    _, err = process.communicate(timeout=40)

    assert process.returncode == 3
    assert str(server.port) in err
    assert 0 < len(records(tmp_path)) < 24


def test_an_interrupt_while_the_server_is_full_still_finishes_what_is_in_flight(
    tmp_path: Path,
) -> None:
    def full_at_first(asked: Asked) -> Reaction:
        if asked.attempt == 1 and len(server.asked) > 2:
            return fail(503, retry_after="1")
        return say(name_of(asked.color), delay=1.5)

    make_pictures(tmp_path, 40)
    with serving(full_at_first) as server:
        process = start_and_wait_for(tmp_path, server, 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
        begun = {asked.color for asked in server.asked}

    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["ok"] >= len(begun) >= 3
