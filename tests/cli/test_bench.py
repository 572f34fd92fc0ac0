"""`joycap bench` against servers whose speed is known."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job.helping import LOOP, command, joycap, make_pictures
from stub_server import Stub, StubOptions, stub

from fault_server import fail, say, serving

QUICK = ("--seconds", "0.5", "--no-check")
LEVEL = {
    "level", "seconds", "answers", "answers_per_second", "captions_per_second",
    "prompt_tokens_per_second", "completion_tokens_per_second", "cached_share", "glitch_rate",
    "latency", "latency_95", "in_flight", "running", "waiting", "full", "client_cores",
    "loop_share", "cores", "failed", "why",
}  # fmt: skip


@pytest.fixture(scope="module")
def eight_slots() -> Iterator[Stub]:
    with stub(StubOptions(slots=8, latency=0.3)) as server:
        yield server


def bench(url: str, *flags: str | Path, code: int = 0) -> dict[str, Any]:
    done = joycap("bench", "--base-url", url, "--json", *QUICK, *flags, code=code)
    (line,) = done.stdout.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told


def test_the_knee_of_eight_slots_is_found_and_the_engine_is_its_limit(
    tmp_path: Path, eight_slots: Stub
) -> None:
    make_pictures(tmp_path, 20)
    told = bench(eight_slots.url, tmp_path)

    assert set(told) == {
        "urls", "model", "wire", "prompt", "max_tokens", "pictures", "repeated", "levels", "knee",
        "auto", "limit", "why", "advice", "compare",
    }  # fmt: skip
    assert 8 <= told["knee"]["level"] <= 16
    assert told["knee"]["answers_per_second"] == pytest.approx(8 / 0.3, rel=0.2)
    # On a busy machine many of eight requests are still on their way, as at a slow front end.
    assert told["limit"] in ("engine", "front end")
    assert told["auto"]["level"] is None
    assert told["auto"]["answers"] > 0
    assert {level["level"] for level in told["levels"]} >= {8, 16}
    assert all(set(level) == LEVEL for level in told["levels"])
    assert (told["model"], told["wire"], told["compare"]) == ("stub", "bmp", None)
    assert told["repeated"]
    assert not (tmp_path / ".joycap").exists(), "nothing is written"


def test_an_engine_at_which_requests_wait_is_the_limit(tmp_path: Path) -> None:
    make_pictures(tmp_path, 20)
    # So slow that a client on a busy machine, too, has the next picture ready when one is done.
    with stub(StubOptions(slots=8, latency=0.6)) as server:
        told = bench(server.url, tmp_path, "--concurrency", "24", "--seconds", "1")

    assert told["limit"] == "engine"
    assert told["knee"]["waiting"] > 8


def test_given_levels_are_measured_as_given_and_shown_as_a_table(eight_slots: Stub) -> None:
    done = joycap("bench", "--base-url", eight_slots.url, "--levels", "3, 1", *QUICK)
    rows = [line.split() for line in done.stdout.splitlines()]

    assert [row[0] for row in rows[1:3]] == ["1", "3"]
    assert rows[2][-2:] == ["<-", "knee"]
    assert "limit: " in done.stdout
    assert "3 in flight" in done.stderr
    assert "no two the same" in done.stderr


def test_a_single_level_is_what_the_server_gets(tmp_path: Path) -> None:
    make_pictures(tmp_path, 20)
    with stub(StubOptions(slots=64, latency=0.3)) as server:
        told = bench(server.url, tmp_path, "--concurrency", "3")
        peak = server.stats()["peak"]

    assert [level["level"] for level in told["levels"]] == [3]
    assert told["auto"] is None
    assert told["limit"] == "concurrency"
    assert peak == 3


def test_glitches_are_counted_and_not_asked_again(tmp_path: Path) -> None:
    make_pictures(tmp_path, 6)
    with serving(lambda asked: say(LOOP, delay=0.05)) as server:
        told = bench(server.url, tmp_path, "--concurrency", "2")
        prompts = {asked.prompt for asked in server.asked}

    assert told["knee"]["glitch_rate"] == 1
    assert told["knee"]["captions_per_second"] == 0 < told["knee"]["answers_per_second"]
    assert len(prompts) == 1, "a glitch is not asked again in another way"


def test_pictures_that_cannot_be_used_are_passed_over(tmp_path: Path, eight_slots: Stub) -> None:
    make_pictures(tmp_path, 3)
    (tmp_path / "empty.jpg").write_bytes(b"")
    told = bench(eight_slots.url, tmp_path, "--concurrency", "4")

    assert told["knee"]["failed"] == 0 < told["knee"]["answers"]


def test_wrong_usage_is_exit_code_2(tmp_path: Path, eight_slots: Stub) -> None:
    for flags, words in (
        (("--levels", "8,x"), "--levels"),
        (("--concurrency", "0"), "--concurrency"),
        (("--concurrency", "2", "--levels", "2"), "together"),
        (("--type", "no-such-type"), "no-such-type"),
        ((tmp_path / "missing",), "does not exist"),
        ((tmp_path,), "no picture"),
    ):
        done = joycap("bench", *flags, "--base-url", eight_slots.url, *QUICK, code=2)
        assert words in done.stderr
        assert done.stdout == ""


def test_pictures_of_which_none_can_be_used_are_exit_code_2(
    tmp_path: Path, eight_slots: Stub
) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    done = joycap("bench", tmp_path, "--base-url", eight_slots.url, *QUICK, code=2)

    assert "text.jpg" in done.stderr


def test_no_server_is_exit_code_3(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = joycap("bench", "--base-url", url, code=3)

    assert "cannot be reached" in done.stderr
    assert done.stdout == ""


def test_a_server_that_refuses_every_request_is_exit_code_3_with_its_words(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    with serving(lambda asked: fail(400, "pictures are not my thing")) as server:
        done = joycap("bench", tmp_path, "--base-url", server.url, *QUICK, code=3)

    assert "pictures are not my thing" in done.stderr


def test_an_interrupt_prints_what_was_measured(tmp_path: Path, eight_slots: Stub) -> None:
    make_pictures(tmp_path, 4)
    flags: list[str | Path] = [
        tmp_path,
        "--base-url",
        eight_slots.url,
        "--levels",
        "2,4000",
        "--json",
        *QUICK,
    ]
    process = subprocess.Popen(
        command("bench", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "2 in flight" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert [level["level"] for level in json.loads(out)["levels"]] == [2]


def test_an_interrupt_ends_it_soon_whatever_is_in_flight(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    with serving(lambda asked: say("A dog.", delay=30)) as server:
        process = subprocess.Popen(
            command("bench", tmp_path, "--base-url", server.url, *QUICK),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not server.asked:
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (130, ""), err
    assert time.monotonic() - began < 10


def test_without_vllm_there_is_nothing_to_compare_with(
    tmp_path: Path, eight_slots: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    make_pictures(tmp_path, 2)
    monkeypatch.setitem(os.environ, "JOYCAP_COMPARE_VLLM_BENCH", "1")
    call = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'vllm' else find(name, *rest)\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\n"
        "from joycap_vllm.cli import main; main()"
    )
    words = ["bench", str(tmp_path), "--base-url", eight_slots.url, "--concurrency", "2", *QUICK]
    done = subprocess.run(
        [command()[0], "-c", call, *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2, done.stderr
    assert "pip install 'joycap-vllm[vllm]'" in done.stderr
    assert "in flight:" not in done.stderr, "it is told before minutes are spent"


def test_one_server_is_compared_and_not_a_fleet(tmp_path: Path, eight_slots: Stub) -> None:
    make_pictures(tmp_path, 2)
    both = ["--base-url", eight_slots.url, "--base-url", "http://127.0.0.1:9"]
    done = joycap("bench", tmp_path, *both, "--compare-vllm-bench", *QUICK, code=2)

    assert "takes one --base-url" in done.stderr


def test_a_level_that_takes_more_files_than_may_be_open_is_told_of(
    tmp_path: Path, eight_slots: Stub
) -> None:
    make_pictures(tmp_path, 2)
    call = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); "
        "from joycap_vllm.cli import main; main()"
    )
    words = ["bench", str(tmp_path), "--base-url", eight_slots.url, "--concurrency", "80", *QUICK]
    done = subprocess.run(
        [command()[0], "-c", call, *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "43 requests are in flight and not 80" in done.stderr
