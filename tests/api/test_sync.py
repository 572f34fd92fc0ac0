"""The Python API without async: scripts, threads, notebooks, and Ctrl-C."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.coloured import caption_of, png
from joycap_vllm import (
    CaptionerOptions,
    FleetOptions,
    ImageError,
    JoycapError,
    NoCaptionError,
    NoEndpointError,
    SyncCaptioner,
    UsageError,
)

from fault_server import Asked, FaultServer, Reaction, name_of, say, serving

FEW = CaptionerOptions(workers=1, check=False, fleet=FleetOptions(concurrency=4))
HEAD = "import itertools, sys\nfrom joycap_vllm import SyncCaptioner, CaptionerOptions\n"


def test_a_script_captions_one_picture(server: FaultServer) -> None:
    with SyncCaptioner(server.url) as joy:
        assert joy.caption(png(5), "straightforward") == caption_of(5)


def test_without_with_it_opens_at_its_first_call_and_again_after_closing(
    server: FaultServer,
) -> None:
    joy = SyncCaptioner(server.url)
    for number in (1, 2):
        assert joy.caption(png(number)) == caption_of(number)
        joy.close()
    joy.close()

    assert "joycap" not in {thread.name for thread in threading.enumerate()}


def test_many_come_as_from_the_captioner(server: FaultServer) -> None:
    inputs = [png(number) for number in range(30)]
    with SyncCaptioner(server.url) as joy:
        ordered = list(joy.caption_many(inputs, in_order=True))
        rows = list(joy.caption_many(enumerate(inputs), image=lambda row: row[1]))

    assert [done.caption for done in ordered] == [caption_of(n) for n in range(30)]
    assert {done.input[0]: done.caption for done in rows} == {n: caption_of(n) for n in range(30)}


def test_errors_are_those_of_the_captioner(server: FaultServer) -> None:
    with SyncCaptioner(server.url) as joy:
        with pytest.raises(ImageError, match="0 bytes"):
            joy.caption(b"")
        with pytest.raises(UsageError, match="no caption type"):
            joy.caption_many([b""], "nonsense")
        server.script = lambda asked: say("I'm sorry, but I can't help with that.")
        with pytest.raises(NoCaptionError, match="refusal"):
            joy.caption(png(1))


def test_nobody_there_is_told_at_the_first_call() -> None:
    joy = SyncCaptioner("http://127.0.0.1:1/v1")
    with pytest.raises(NoEndpointError):
        joy.caption(png(1))

    assert "joycap" not in {thread.name for thread in threading.enumerate()}


def test_threads_share_one(server: FaultServer) -> None:
    joy = SyncCaptioner(server.url)
    with ThreadPoolExecutor(8) as pool:
        captions = list(pool.map(lambda number: joy.caption(png(number)), range(40)))
        streams = pool.map(
            lambda start: [d.caption for d in joy.caption_many([png(start)] * 3)], range(8)
        )
        assert captions == [caption_of(number) for number in range(40)]
        assert list(streams) == [[caption_of(start)] * 3 for start in range(8)]
    joy.close()


async def test_it_works_where_a_loop_runs_already_as_in_notebooks(server: FaultServer) -> None:
    asyncio.get_running_loop()
    with SyncCaptioner(server.url) as joy:
        assert joy.caption(png(1)) == caption_of(1)
        assert [done.caption for done in joy.caption_many([png(2)])] == [caption_of(2)]


def test_of_endless_inputs_only_so_many_are_in_work() -> None:
    read, most = 0, 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for read in itertools.count(1):
            yield png(read)

    with serving() as server, SyncCaptioner(server.url, options=FEW) as joy:
        for taken, _ in enumerate(joy.caption_many(endless()), 1):
            most = max(most, read - taken)
            if taken == 40:
                break

    assert most <= 4 + 2 + 2


def test_leaving_early_ends_what_is_in_flight() -> None:
    def stuck(asked: Asked) -> Reaction:
        return Reaction(hang=asked.color[0] >= 2, text=name_of(asked.color))

    with serving(stuck) as server, SyncCaptioner(server.url, options=FEW) as joy:
        for done in joy.caption_many(png(number) for number in itertools.count()):
            if done.index == 1:
                break
        assert joy.caption(png(1)) == caption_of(1)


def test_closing_it_ends_what_other_threads_wait_for() -> None:
    with serving(lambda asked: Reaction(hang=True)) as server, ThreadPoolExecutor(2) as pool:
        joy = SyncCaptioner(server.url, options=FEW)
        one = pool.submit(joy.caption, png(1))
        many = pool.submit(lambda: list(joy.caption_many([png(2)])))
        while server.in_hand < 2:
            assert not one.done()
        joy.close()
        for waiting in (one, many):
            with pytest.raises(JoycapError, match="was closed"):
                waiting.result(10)


SCRIPTS = {
    "one caption": "joy.caption(sys.argv[2])",
    "many": "list(joy.caption_many(itertools.repeat(sys.argv[2])))",
    "inputs that never come": "list(joy.caption_many(iter(input, '')))",
}


@pytest.mark.parametrize("with_", [True, False], ids=["with", "without with"])
@pytest.mark.parametrize("what", SCRIPTS)
def test_ctrl_c_ends_a_script(what: str, with_: bool, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    call, make = SCRIPTS[what], "SyncCaptioner(sys.argv[1], options=CaptionerOptions(check=False))"
    body = f"with {make} as joy:\n    {{}}" if with_ else f"joy = {make}\n{{}}"
    say_so = "joy.notices; print('open', flush=True); " if with_ else "print('open', flush=True); "
    script = HEAD + body.format(say_so + call)
    with serving(lambda asked: Reaction(hang=True)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, server.url, tmp_path / "a.png"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        while what != "inputs that never come" and not server.in_hand:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors


def test_a_script_that_closes_nothing_ends_by_itself(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    script = HEAD + (
        "joy = SyncCaptioner(sys.argv[1])\n"
        "stream = joy.caption_many(itertools.repeat(sys.argv[2]))\n"
        "print(next(stream).caption)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, server.url, tmp_path / "a.png"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    assert (done.stdout.strip(), done.stderr) == (caption_of(1), "")
