"""The supervisor against a fake vLLM: starting, dying, stopping, and leaving nobody behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server_help import alive, fake_plan, wait_until

from joycap_vllm.errors import EngineError, NoEndpointError, UsageError
from joycap_vllm.server import Change, Flag, Plan, State, engine, running

LAUNCHER = Path(__file__).with_name("launch_fake.py")
BROKEN = """\
(EngineCore pid=7) ERROR 11-21 07:14:00 [core.py:1] EngineCore failed to start.
(Worker pid=9) ERROR 11-21 07:13:58 [x.py:1] Traceback (most recent call last):
(Worker pid=9) ERROR 11-21 07:13:58 [x.py:1]   File "x.py", line 1208, in load
(Worker pid=9) ERROR 11-21 07:13:58 [x.py:1] torch.OutOfMemoryError: no room for 2.00 GiB
Traceback (most recent call last):
  File "entry.py", line 1, in <module>
RuntimeError: Engine core initialization failed. See root cause above.
"""


def page(plan: Plan, path: str = "/health") -> dict[str, Any]:
    url = plan.replicas[0].base_url.removesuffix("/v1") + path
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  (our own server)
        return dict(json.load(answer))


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("vllm-*.log"))


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "broken.txt"
    file.write_text(BROKEN, encoding="utf-8")
    return str(file)


async def test_a_server_is_ready_within_and_gone_after(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)
    lines: list[str] = []

    async with running(plan, on_line=lines.append) as base_urls:
        pids = page(plan)["pids"]
        assert base_urls == (plan.replicas[0].base_url,)
        assert all(alive(pid) for pid in pids)

    assert not any(alive(pid) for pid in pids)
    assert "Starting to load model x..." in lines
    assert any(line.startswith("Starting vLLM server on http://127.0.0.1:") for line in lines)


async def test_two_replicas_listen_on_their_own_ports(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, replicas=2)

    async with running(plan, on_line=lambda _: None) as base_urls:
        assert len(set(base_urls)) == 2
        assert len(logs(tmp_path)) == 2


async def test_a_death_before_ready_tells_the_real_error(tmp_path: Path, broken: str) -> None:
    plan = fake_plan(tmp_path, "--die-with", broken, "--die-at-start")

    with pytest.raises(EngineError, match=r"torch\.OutOfMemoryError: no room for 2\.00 GiB"):
        async with running(plan, on_line=lambda _: None):
            pass


async def test_a_death_while_serving_ends_the_waiting_and_its_children(
    tmp_path: Path, broken: str
) -> None:
    plan = replace(fake_plan(tmp_path, "--die-with", broken), restarts=0)

    async with engine(plan, on_line=lambda _: None) as servers:
        child = page(plan)["pids"][1]
        with pytest.raises(OSError):
            await asyncio.to_thread(page, plan, "/die")
        death = await servers.wait()

    assert "torch.OutOfMemoryError" in str(death)
    assert not alive(child)


async def test_a_server_killed_from_outside_is_told_as_such(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path), restarts=0)

    async with engine(plan, on_line=lambda _: None) as servers:
        os.kill(page(plan)["pids"][0], signal.SIGKILL)
        death = await servers.wait()

    assert "killed from outside" in str(death)


class Watch:
    """Takes the changes of servers' states, and waits for them."""

    def __init__(self) -> None:
        self.seen: list[Change] = []
        self._more = asyncio.Event()

    def __call__(self, change: Change) -> None:
        self.seen.append(change)
        self._more.set()

    def states(self, plan: Plan, number: int = 0) -> list[State]:
        url = plan.replicas[number].base_url
        return [change.state for change in self.seen if change.url == url]

    async def until(self, count: int, state: State) -> None:
        async with asyncio.timeout(30):
            while sum(change.state is state for change in self.seen) < count:
                self._more.clear()
                await self._more.wait()


async def test_a_server_that_dies_comes_back_and_the_other_serves_on(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path, replicas=2), pause=0.05)
    other = replace(plan, replicas=plan.replicas[1:])
    watch = Watch()

    async with engine(plan, on_line=lambda _: None, on_change=watch) as servers:
        survivor, (dead, child) = page(other)["pids"], page(plan)["pids"]
        os.kill(dead, signal.SIGKILL)
        await watch.until(3, State.READY)
        assert page(other)["pids"] == survivor
        assert page(plan)["pids"][0] != dead
        assert not alive(child)
        assert [tender.restarts for tender in servers.tenders] == [1, 0]

    first = [State.STARTING, State.READY, State.DIED, State.STARTING, State.READY, State.STOPPED]
    assert watch.states(plan) == first
    assert watch.states(plan, 1) == [State.STARTING, State.READY, State.STOPPED]


async def test_a_server_that_keeps_dying_is_given_up_with_its_last_words(
    tmp_path: Path, broken: str
) -> None:
    plan = replace(fake_plan(tmp_path, "--die-with", broken), restarts=2, pause=0.01)
    watch, lines = Watch(), list[str]()

    async with engine(plan, on_line=lines.append, on_change=watch) as servers:
        for ready in range(1, 4):
            await watch.until(ready, State.READY)
            with pytest.raises(OSError):
                await asyncio.to_thread(page, plan, "/die")
        error = await servers.wait()

    assert "died 3 times in a row" in str(error)
    assert "torch.OutOfMemoryError" in str(error)
    assert watch.seen[-1].state is State.GIVEN_UP
    again = [line.splitlines()[-1] for line in lines if "again in" in line]
    assert again == ["starting it again in 0.01 s", "starting it again in 0.02 s"]


def roomy(plan: Plan, *flags: tuple[str, str]) -> Plan:
    """The plan with these flags of its GPU's own."""
    made = tuple(Flag(name, value, "for a test") for name, value in flags)
    words = tuple(word for flag in made for word in flag.words)
    replica = plan.replicas[0]
    return replace(plan, replicas=(replace(replica, flags=made, argv=(*replica.argv, *words)),))


async def test_a_server_without_enough_memory_is_started_once_more_with_less(
    tmp_path: Path, broken: str
) -> None:
    flags = ("--max-num-seqs", "100"), ("--gpu-memory-utilization", "0.92")
    plan = roomy(fake_plan(tmp_path, "--die-with", broken, "--room", "60"), *flags)
    lines: list[str] = []

    async with engine(plan, on_line=lines.append) as servers:
        argv = page(plan)["argv"]
        assert servers.tenders[0].replica.shrunk

    assert argv[-4:] == ["--max-num-seqs", "50", "--gpu-memory-utilization", "0.86"]
    words = "starting again, once, with --gpu-memory-utilization 0.86 --max-num-seqs 50"
    assert sum(words in line for line in lines) == 1


async def test_memory_that_runs_out_at_the_test_picture_is_answered_by_less_as_well(
    tmp_path: Path, broken: str
) -> None:
    plan = fake_plan(tmp_path, "--die-with", broken, "--room", "60", "--when-asked")
    plan = replace(roomy(plan, ("--max-num-seqs", "100")), check=True)
    lines: list[str] = []

    with pytest.raises(NoEndpointError):  # since the fake one lists no models
        async with running(plan, on_line=lines.append):
            pass
    assert any("starting again, once, with --max-num-seqs 50" in line for line in lines)


async def test_a_server_is_tended_on_when_nobody_can_be_told_any_more(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path), pause=0.01)

    def gone(_: str) -> None:
        raise BrokenPipeError

    async with engine(plan, on_line=gone) as servers:
        (tender,) = servers.tenders
        first = page(plan)["pids"]
        tender.kill()
        while tender.restarts == 0 or tender.state is not State.READY:
            await asyncio.sleep(0.05)
        assert page(plan)["pids"] != first


async def test_a_server_without_enough_memory_for_less_either_is_given_up(
    tmp_path: Path, broken: str
) -> None:
    plan = fake_plan(tmp_path, "--die-with", broken, "--room", "20")

    with pytest.raises(EngineError, match=r"torch\.OutOfMemoryError"):
        async with running(roomy(plan, ("--max-num-seqs", "100")), on_line=lambda _: None):
            pass
    assert len(logs(tmp_path)) == 2


async def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path, "--not-ready"), start_timeout=1.0)

    with pytest.raises(EngineError, match=r"within 1 s .* said: Starting vLLM server"):
        async with running(plan, on_line=lambda _: None):
            pass


async def test_a_server_that_ignores_sigterm_is_killed_with_its_child(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, "--ignore-term", grace=1)
    lines: list[str] = []

    async with running(plan, on_line=lines.append):
        pids = page(plan)["pids"]

    assert wait_until(lambda: not any(alive(pid) for pid in pids))
    assert "vLLM did not stop within 1 s: killing it" in lines


async def test_an_exception_within_still_stops_the_server(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)
    pids: list[int] = []

    async def fail_while_serving() -> None:
        async with running(plan, on_line=lambda _: None):
            pids.extend(page(plan)["pids"])
            raise KeyError

    with pytest.raises(KeyError):
        await fail_while_serving()

    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


async def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)

    with socket.socket() as other:
        other.bind(("127.0.0.1", plan.replicas[0].port))
        other.listen()
        with pytest.raises(EngineError, match=f"port {plan.replicas[0].port} .* in use"):
            async with running(plan, on_line=lambda _: None):
                pass

    assert logs(tmp_path) == []


async def test_a_plan_with_an_obstacle_is_not_carried_out(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path), obstacle="no GPU is visible here")

    with pytest.raises(UsageError, match="no GPU is visible here"):
        async with running(plan, on_line=lambda _: None):
            pass


async def test_a_command_that_does_not_exist_is_an_engine_error(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)
    wrong = replace(plan.replicas[0], argv=("/does/not/exist",))

    with pytest.raises(EngineError, match="FileNotFoundError"):
        async with running(replace(plan, replicas=(wrong,)), on_line=lambda _: None):
            pass


async def test_the_api_key_travels_by_environment_only(tmp_path: Path) -> None:
    plan = replace(fake_plan(tmp_path), api_key="a-secret")

    async with running(plan, on_line=lambda _: None):
        answer = page(plan)

    assert answer["key"] == "a-secret"
    assert "a-secret" not in repr(answer["argv"])
    assert "a-secret" not in repr(plan)


async def test_what_a_server_leaves_elsewhere_is_cleaned_up(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path)
    mark = tmp_path / "cleaned"
    container = replace(plan.replicas[0], cleanup=("touch", str(mark)))

    async with running(replace(plan, replicas=(container,)), on_line=lambda _: None):
        assert not mark.exists()

    assert mark.exists()


async def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"vllm-1-{number}.log").touch()

    async with running(fake_plan(tmp_path), on_line=lambda _: None):
        assert len(logs(tmp_path)) == 20
