"""The supervisor as a process: signals, kills, and nobody left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server_help import alive, fake_plan, group, wait_until

from joycap_vllm.server import engine, running

LAUNCHER = Path(__file__).with_name("launch_fake.py")


class Launched:
    """The launcher process, and the group that it started."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LAUNCHER), str(folder), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.lines = iter(self.process.stdout or [])
        self.port = int(next(self.lines))

    def wait_ready(self) -> None:
        assert any(line.startswith("ready") for line in self.lines)

    def wait_loading(self) -> None:
        assert any("Starting to load" in line for line in self.lines)

    def group(self) -> list[int]:
        return group(self.leader())

    def leader(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text(encoding="ascii").split()[0])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a launcher with flags for the fake vLLM."""
    made: list[Launched] = []

    def start(*arguments: str) -> Launched:
        made.append(Launched(tmp_path, *arguments))
        return made[-1]

    yield start
    for launched in made:
        launched.close()


@pytest.fixture
def launched(launch: Launch) -> Launched:
    return launch()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_serving_ends_with_zero(launched: Launched, number: int) -> None:
    launched.wait_ready()
    pids = launched.group()
    launched.process.send_signal(number)

    assert launched.process.wait(20) == 0
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_a_signal_before_ready_ends_with_130(launch: Launch) -> None:
    launched = launch("--not-ready")
    launched.wait_loading()
    pids = launched.group()
    launched.process.send_signal(signal.SIGINT)

    assert launched.process.wait(20) == 130
    assert not any(alive(pid) for pid in pids)


def test_a_server_that_loads_and_hears_no_signal_is_killed_soon(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, "--not-ready", "--ignore-term", grace=600)
    lines: list[str] = []

    async def serve_briefly() -> None:
        async with asyncio.timeout(1), running(plan, on_line=lines.append):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(serve_briefly())

    assert "vLLM did not stop within 3 s: killing it" in lines


def test_a_second_signal_kills_at_once(launch: Launch) -> None:
    launched = launch("--ignore-term")
    launched.wait_ready()
    pids = launched.group()
    launched.process.send_signal(signal.SIGINT)
    launched.process.send_signal(signal.SIGTERM)

    assert launched.process.wait(20) == 0
    assert not any(alive(pid) for pid in pids)


def test_nobody_outlives_a_launcher_that_is_killed(launched: Launched) -> None:
    launched.wait_ready()
    pids = launched.group()
    launched.process.kill()

    assert len(pids) == 3
    assert wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("flags", [(), ("--ignore-term",)])
def test_nobody_outlives_the_launcher_and_the_keeper_and_the_server_that_are_killed(
    launch: Launch, flags: tuple[str, ...]
) -> None:
    launched = launch(*flags)
    launched.wait_ready()
    pids = launched.group()
    doomed = pids if flags else [pid for pid in pids if pid != max(pids)]
    for pid in (launched.process.pid, *doomed[: 1 if flags else 2]):
        os.kill(pid, signal.SIGKILL)

    assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_server_that_dies_after_its_last_guard_has_its_own_last_words(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)

    async def last_words() -> str:
        async with engine(plan, on_line=lambda _: None) as servers:
            (keeper,) = servers.tenders
            leader = keeper.leader
            children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
            for pid in map(int, children):
                os.kill(pid, signal.SIGKILL)
            return str(await servers.wait())

    plan = replace(plan, restarts=0)
    assert "killed from outside" in asyncio.run(last_words())


def test_a_hang_up_ends_it_as_a_signal_to_stop_does(launched: Launched) -> None:
    launched.wait_ready()
    pids = launched.group()
    launched.process.send_signal(signal.SIGHUP)

    assert launched.process.wait(20) == 0
    assert not any(alive(pid) for pid in pids)


def test_nobody_outlives_a_killed_launcher_even_when_sigterm_is_ignored(launch: Launch) -> None:
    launched = launch("--ignore-term")
    launched.wait_ready()
    pids = launched.group()
    launched.process.kill()
    launched.process.wait()

    assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_killed_launcher_leaves_nothing_elsewhere_either(launch: Launch, tmp_path: Path) -> None:
    mark = tmp_path / "cleaned"
    launched = launch("--cleanup", str(mark))
    launched.wait_ready()
    launched.process.kill()
    launched.process.wait()

    assert wait_until(mark.exists)


def test_a_killed_keeper_takes_the_engine_with_it(launched: Launched) -> None:
    launched.wait_ready()
    pids = launched.group()
    os.kill(launched.leader(), signal.SIGKILL)

    assert wait_until(lambda: not any(alive(pid) for pid in pids))
