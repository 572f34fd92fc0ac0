"""A job's crew on a Ray cluster: workers ask; this process, which has the journal, gives orders.

Every order is held here until its outcome is. Those that a dead worker had go to the others, and a
new worker takes its place; whatever it had ended and not reported is as if it had never been. So
each task has one record, whoever dies, and a killed job goes on from its journal as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from joycap_vllm.captioner import OnAnswer
from joycap_vllm.errors import ImageError, JoycapError
from joycap_vllm.job.crew import Crew, Hire, Load, Order, Told
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.scale.cluster import Cluster, connected
from joycap_vllm.scale.sharing import core_share, floored, joined, share_of, workers_for
from joycap_vllm.scale.worker import Briefing, Ended, Report, Worker

_SUSPECT = 2  # deaths of workers after which an order is given out only while no other such is
_GUILTY = 4  # deaths after which it is blamed
_IN_VAIN = 5  # workers in a row, in one place, that died before anything ended
_PAUSE = (0.1, 5.0)  # seconds, doubling, before the next worker takes a dead one's place
_SLOW = 20.0  # seconds of waiting for a worker that are worth a word
_GATHER = 0.03  # seconds in which more orders join the first: each message costs both sides


@dataclass(eq=False, slots=True)
class _Given:
    """An order on its way."""

    order: Order
    ended: asyncio.Future[Ended]
    deaths: int = 0


@dataclass(eq=False, slots=True)
class _Place:
    """A worker's place in the crew, whoever is in it."""

    number: int
    worker: Any = None  # Ray's handle, once it is open
    report: Report = field(default_factory=Report)
    out: dict[int, _Given] = field(default_factory=dict)
    ended: int = 0  # orders that this worker has ended

    @property
    def free(self) -> float:
        """Orders that it has room for: as many more as end until the next ones are there."""
        if self.worker is None:
            return 0.0
        return self.report.room + 2 * len(self.report.ended) - len(self.out)


class RayCrew:
    """Workers on a cluster, as `job.crew.Crew`.

    Args:
        settings: The job.
        cluster: Where they run.
        workers: How many; None takes one for each two cores.
    """

    def __init__(self, settings: JobSettings, cluster: Cluster, workers: int | None) -> None:
        self.news: deque[str] = deque(maxlen=100)
        self.on_answer: OnAnswer | None = None
        self._settings = settings
        self._cluster = cluster
        count = workers_for(cluster.cores, workers, settings.captioner.fleet.concurrency)
        self.count = count
        self._places = [_Place(number) for number in range(count)]
        self._waiting: deque[_Given] = deque()
        self._suspects: deque[_Given] = deque()
        self._handing: asyncio.TimerHandle | None = None
        self._numbers = itertools.count()
        self._keepers: list[asyncio.Task[None]] = []
        self._opened = asyncio.Event()
        self._hedged = 0
        self._ending = False
        self._broken: JoycapError | None = None

    async def open(self) -> None:
        """Starts the workers, and waits for the first.

        Raises:
            JoycapError: None can work.
        """
        self._keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        await self._opened.wait()
        if self._broken is not None:
            raise self._broken

    async def close(self) -> None:
        """Ends the workers and what they do."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    @property
    def room(self) -> float:
        """Images for all workers that are there."""
        return sum(max(0.0, one.free) + len(one.out) for one in self._places) - len(self._waiting)

    async def ask(self, order: Order, told: Told) -> None:
        """As `Crew.ask`; the order is kept until it has ended."""
        given = _Given(order, asyncio.get_running_loop().create_future())
        if self._broken is not None:
            raise self._broken
        self._waiting.append(given)
        if self._handing is None:
            self._handing = asyncio.get_running_loop().call_later(_GATHER, self._hand_out)
        ended = await given.ended
        if ended.why:
            raise ImageError(ended.why)
        if ended.facts is not None:
            facts, asked = ended.facts, order.asked
            await asyncio.gather(*(told(asked[at], out, facts) for at, out in ended.outcomes))

    def no_more(self) -> None:
        """Nothing new comes."""
        self._ending = True
        for place in self._places:
            if place.worker is not None:
                place.worker.no_more.remote()

    def look(self) -> Load:
        """What all workers do together, by their latest reports."""
        load = joined([place.report.load for place in self._places if place.worker is not None])
        return replace(load, hedged=load.hedged + self._hedged)

    def _hand_out(self) -> None:
        """Gives what waits to the workers with the most room."""
        if self._handing is not None:
            self._handing.cancel()
            self._handing = None
        batches: dict[_Place, list[tuple[int, Order]]] = {}
        while self._places and (self._waiting or self._suspects):
            place = max(self._places, key=lambda one: one.free)
            given = self._next() if place.free >= 1 else None
            if given is None:
                break
            if given.ended.done():
                continue  # whoever asked has gone
            number = next(self._numbers)
            place.out[number] = given
            batches.setdefault(place, []).append((number, given.order))
        for place, orders in batches.items():
            sent = _soon(place.worker.give.remote(orders))
            these = [place.out[number] for number, _ in orders]
            sent.add_done_callback(partial(self._note_sent, these))

    def _next(self) -> _Given | None:
        out = (given for place in self._places for given in place.out.values())
        if self._suspects and not any(given.deaths >= _SUSPECT for given in out):
            return self._suspects.popleft()
        return self._waiting.popleft() if self._waiting else None

    def _note_sent(self, orders: list[_Given], sent: asyncio.Future[None]) -> None:
        """If the worker is dead its next report tells; if it does not understand, nothing would."""
        error = None if sent.cancelled() else sent.exception()
        if isinstance(error, self._cluster.ray.exceptions.RayTaskError):
            fault = JoycapError(f"a worker cannot take what it is given: {_last_line(error)}")
            for given in orders:
                if not given.ended.done():
                    given.ended.set_exception(fault)

    async def _keep(self, place: _Place) -> None:
        """Has a worker in a place for as long as the job runs, one after the other if they die."""
        ray, in_vain, why = self._cluster.ray, 0, ""
        while in_vain < _IN_VAIN:
            handle, died = self._hired(), False
            try:
                await self._open(place, handle)
                await self._serve(place)
            except ray.exceptions.RayError as death:
                died, why = True, _last_line(death)
                in_vain = 0 if place.ended else in_vain + 1
                self.news.append(f"a worker died; {len(place.out)} images are asked again: {why}")
            except JoycapError as error:
                self._leave(place, error)
                return
            finally:
                with contextlib.suppress(Exception):
                    ray.kill(handle)
                self._take_back(place, died=died)
            await asyncio.sleep(min(_PAUSE[0] * 2**in_vain, _PAUSE[1]))
        text = f"{in_vain} workers on the Ray cluster died, one after the other: {why}"
        self._leave(place, JoycapError(text))

    def _hired(self) -> Any:
        cores = floored(min(1.0, self._cluster.cores / self.count))
        actor = self._cluster.ray.remote(Worker)
        return actor.options(
            num_cpus=cores, max_restarts=0, max_concurrency=64, scheduling_strategy="SPREAD"
        ).remote()

    async def _open(self, place: _Place, handle: Any) -> None:
        options, count = self._settings.captioner, self.count
        fleet = replace(
            options.fleet,
            concurrency=share_of(options.fleet.concurrency, place.number, count),
            sharers=count,
        )
        threads = options.workers or math.ceil(core_share(self._cluster.cores, count))
        briefing = Briefing(
            self._settings.urls,
            replace(options, fleet=fleet, workers=threads),
            len(self._settings.prompts),
            str(self._settings.source.root),
        )
        opening = _soon(handle.open.remote(briefing))
        done, _ = await asyncio.wait({opening}, timeout=_SLOW)
        if not done:
            self.news.append(f"the cluster has not started worker {place.number + 1} yet")
        report = await opening
        if report.failure is not None:
            raise report.failure.error()
        self._tell(report.news)
        place.report, place.worker, place.ended = report, handle, 0
        if self._ending:
            handle.no_more.remote()
        self._opened.set()
        self._hand_out()

    async def _serve(self, place: _Place) -> None:
        while True:
            report = await _soon(place.worker.take.remote())
            place.report = report
            place.ended += len(report.ended)
            for ended in report.ended:
                given = place.out.pop(ended.number)
                if not given.ended.done():
                    given.ended.set_result(ended)
            self._tell(report.news)
            if (on_answer := self.on_answer) is not None:
                for answer in report.answers:
                    on_answer(*answer)
            if report.failure is not None:
                raise report.failure.error()
            self._hand_out()

    def _tell(self, lines: tuple[str, ...]) -> None:
        """What all workers say is told once."""
        self.news.extend(line for line in lines if line not in self.news)

    def _take_back(self, place: _Place, *, died: bool) -> None:
        """What a worker had is anybody's again."""
        taken, place.out = list(place.out.values()), {}
        self._hedged += place.report.load.hedged
        place.worker, place.report = None, Report()
        for given in reversed(taken):
            given.deaths += died
            if given.deaths >= _GUILTY and not given.ended.done():
                why = f"it was asked by {given.deaths} workers that died of it, the last one alone"
                given.ended.set_result(Ended(-1, None, why))
            elif given.deaths >= _SUSPECT:
                self._suspects.append(given)
            else:
                self._waiting.appendleft(given)
        self._hand_out()

    def _leave(self, place: _Place, error: JoycapError) -> None:
        """A place stays empty; with the last one the job has nobody to ask."""
        self._places.remove(place)
        self.news.append(f"worker {place.number + 1} is left out: {error}")
        if self._places:
            return
        self._broken = error
        self._opened.set()
        for given in (*self._waiting, *self._suspects):
            if not given.ended.done():
                given.ended.set_exception(error)


def ray_crew(address: str, workers: int | None, say: Callable[[str], None]) -> Hire:
    """Gets a job's crew on a Ray cluster.

    ```python
    await run_job(plan, agenda, journal, progress, ..., hire=ray_crew("auto", None, print))
    ```

    Args:
        address: As `cluster.connected` takes it.
        workers: How many; None takes one for each two cores of the cluster.
        say: Told what users should know before work begins.
    """

    @asynccontextmanager
    async def hire(settings: JobSettings) -> AsyncIterator[Crew]:
        async with connected(address) as cluster:
            crew = RayCrew(settings, cluster, workers)
            machines = f"{cluster.nodes} machine{'s' * (cluster.nodes != 1)}"
            say(f"{crew.count} workers on a Ray cluster of {cluster.cores:g} cores on {machines}")
            try:
                await crew.open()
                yield crew
            finally:
                await crew.close()

    return hire


def _soon(ref: Any) -> asyncio.Future[Any]:
    """What a call to an actor returns, also through Ray's client."""
    future: asyncio.Future[Any] = asyncio.wrap_future(ref.future())
    return future


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip()[:300]
