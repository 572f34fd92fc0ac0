"""The crew's bookkeeping where workers die, with workers of this process in place of Ray's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joycap_vllm import CaptionerOptions, Outcome, Prompt
from joycap_vllm.errors import ImageError, JoycapError, NoEndpointError
from joycap_vllm.images import Prepared
from joycap_vllm.job import JobSettings
from joycap_vllm.job.crew import Asked, Load, Order
from joycap_vllm.outputs import SidecarOptions
from joycap_vllm.scale.cluster import Cluster
from joycap_vllm.scale.crew import RayCrew
from joycap_vllm.scale.worker import Briefing, Ended, Failure, Report
from joycap_vllm.sources import BytesPlace, Source, SourceImage

PROMPT = Prompt("one", "one?", "", "mixed")
FACTS = Prepared(b"", "image/png", 1, 1, 1, "0")
ROOM = 4.0


class DeadError(Exception):
    """A worker has died."""


class TaskError(DeadError):
    """A worker does not understand."""


class FakeWorker:
    """A worker that dies of what is called poison, or at its n-th order."""

    def __init__(self, dies_at: int = 0, failure: Failure | None = None) -> None:
        self.briefing: Briefing | None = None
        self.orders: list[tuple[int, Order]] = []
        self.dead = False
        self._dies_at, self._failure, self._got = dies_at, failure, 0
        self._news = asyncio.Event()

    async def open(self, briefing: Briefing) -> Report:
        self.briefing = briefing
        return Report(ROOM, Load(capacity=4), news=("one for all",), failure=self._failure)

    async def give(self, orders: list[tuple[int, Order]]) -> None:
        self.orders += orders
        self._got += len(orders)
        self._news.set()

    async def take(self) -> Report:
        await self._news.wait()
        await asyncio.sleep(0)
        keys = [order.image.key for _, order in self.orders]
        if "poison" in keys or (self._dies_at and self._got >= self._dies_at):
            self.dead = True
        if self.dead:
            raise DeadError("the worker died")
        ended = tuple(Ended(n, FACTS, "", ((0, Outcome("ok", "x")),)) for n, _ in self.orders)
        self.orders = []
        self._news.clear()
        return Report(ROOM, Load(capacity=4), ended)

    async def no_more(self) -> None:
        """Nothing new comes."""


class FakeRay:
    """As much of Ray as a crew uses; `make` makes the n-th worker."""

    exceptions = SimpleNamespace(RayError=DeadError, RayTaskError=TaskError)

    def __init__(self, make: Callable[[int], FakeWorker]) -> None:
        self.workers: list[FakeWorker] = []
        self._make = make

    def remote(self, _: type) -> FakeRay:
        return self

    def options(self, **_: Any) -> Any:
        return SimpleNamespace(remote=self._start)

    def kill(self, handle: Any) -> None:
        """Nothing is left to kill."""

    def _start(self) -> Any:
        worker = self._make(len(self.workers))
        self.workers.append(worker)

        def method(call: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
            def remote(*given: Any) -> Any:
                done: Future[Any] = Future()
                task = asyncio.ensure_future(call(*given))
                task.add_done_callback(lambda t: _settle(t, done))
                return SimpleNamespace(future=lambda: done)

            return SimpleNamespace(remote=remote)

        names = ("open", "give", "take", "no_more")
        return SimpleNamespace(**{name: method(getattr(worker, name)) for name in names})


def _settle(task: asyncio.Future[Any], done: Future[Any]) -> None:
    if done.cancelled() or task.cancelled():
        return
    error = task.exception()
    if error is None:
        done.set_result(task.result())
    else:
        done.set_exception(error if isinstance(error, DeadError) else TaskError(str(error)))


@asynccontextmanager
async def crew_of(ray: FakeRay, tmp_path: Path, workers: int = 2) -> AsyncIterator[RayCrew]:
    settings = JobSettings(
        source=Source(tmp_path, ()),
        prompts=(PROMPT,),
        sidecars=SidecarOptions(prompts=("one",), tag_prompts=frozenset(), root=tmp_path),
        state=tmp_path,
        captioner=CaptionerOptions(),
    )
    crew = RayCrew(settings, Cluster(ray, 4.0, 1), workers)
    try:
        await crew.open()
        yield crew
    finally:
        await crew.close()


async def ask_all(crew: RayCrew, keys: list[str]) -> tuple[Counter[str], dict[str, str]]:
    """How often each key had an outcome, and why others had none."""
    told: Counter[str] = Counter()
    whys: dict[str, str] = {}

    async def one(key: str) -> None:
        async def note(_: Asked, __: Outcome, ___: Prepared) -> None:
            told[key] += 1

        order = Order(SourceImage(key, BytesPlace(b"")), (Asked(PROMPT, "one?"),))
        try:
            await crew.ask(order, note)
        except ImageError as error:
            whys[key] = str(error)

    async with asyncio.timeout(20):
        await asyncio.gather(*(one(key) for key in keys))
    return told, whys


async def test_what_dead_workers_had_is_asked_by_others_and_told_once(tmp_path: Path) -> None:
    ray = FakeRay(lambda number: FakeWorker(dies_at=9 if number < 6 else 0))
    keys = [f"{number}.png" for number in range(200)]

    async with crew_of(ray, tmp_path) as crew:
        told, whys = await ask_all(crew, keys)
        news = list(crew.news)

    assert told == Counter(keys)
    assert whys == {}
    assert len(ray.workers) == 8
    assert sum("a worker died" in line for line in news) == 6
    assert news.count("one for all") == 1


async def test_a_picture_that_kills_its_workers_is_found_out_and_fails_alone(
    tmp_path: Path,
) -> None:
    ray = FakeRay(lambda _: FakeWorker())
    keys = [f"{number}.png" for number in range(40)]

    async with crew_of(ray, tmp_path) as crew:
        told, whys = await ask_all(crew, [*keys[:20], "poison", *keys[20:]])

    assert told == Counter(keys)
    assert list(whys) == ["poison"]
    assert "died" in whys["poison"]


async def test_workers_that_only_die_end_the_job_with_why(tmp_path: Path) -> None:
    ray = FakeRay(lambda _: FakeWorker(dies_at=1))

    async with crew_of(ray, tmp_path, workers=1) as crew:
        asked = [asyncio.create_task(ask_all(crew, [f"{number}"])) for number in range(40)]
        errors = await asyncio.gather(*asked, return_exceptions=True)

    assert all(isinstance(error, JoycapError) for error in errors)
    assert "died, one after the other: the worker died" in str(errors[0])


async def test_a_worker_that_cannot_reach_the_server_is_left_out(tmp_path: Path) -> None:
    failure = Failure("endpoint", "http://gpu cannot be reached")
    ray = FakeRay(lambda number: FakeWorker(failure=failure if number == 0 else None))

    async with crew_of(ray, tmp_path) as crew:
        told, _ = await ask_all(crew, ["a", "b", "c"])
        assert any("worker 1 is left out: http://gpu cannot" in line for line in crew.news)

    assert told == Counter("abc")


async def test_where_none_can_reach_the_server_there_is_no_crew(tmp_path: Path) -> None:
    ray = FakeRay(lambda _: FakeWorker(failure=Failure("endpoint", "http://gpu is not there")))

    with pytest.raises(NoEndpointError, match="http://gpu is not there"):
        async with crew_of(ray, tmp_path):
            pass


async def test_each_worker_knows_its_share(tmp_path: Path) -> None:
    ray = FakeRay(lambda _: FakeWorker())
    async with crew_of(ray, tmp_path, workers=3) as crew:
        await ask_all(crew, ["a"])
        await asyncio.sleep(0)

    briefed = [worker.briefing for worker in ray.workers]
    assert [b.options.fleet.sharers for b in briefed if b is not None] == [3, 3, 3]
