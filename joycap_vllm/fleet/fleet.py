"""All endpoints of a job: sends requests within their limits, waits, and comes to an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from joycap_vllm.errors import FullError, NoEndpointError, TransportError, UnreachableError
from joycap_vllm.fleet.advice import Adviser, bottleneck
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.endpoint import Endpoint
from joycap_vllm.fleet.limits import Change, Limit, LimitOptions, Wait
from joycap_vllm.fleet.places import Member, Ticket
from joycap_vllm.fleet.sending import Sending
from joycap_vllm.fleet.station import MakeBody, Reply, Station, time

_T = TypeVar("_T")
_MANY = 1 << 20  # more than anybody has in flight
_USED = 0.8  # of a given concurrency that is in flight where it is the limit
_REWEIGH = 10.0  # seconds between two looks at how fast the endpoints are


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet behaves.

    Args:
        concurrency: Requests in flight over the whole fleet; None finds it out.
        deadline: Seconds after which a request is given up and its connection closed.
        patience: Seconds that a job waits while no endpoint can be reached.
        impatient: Whether a request that every server puts off as full is given up after the
            patience even while others are answered.
        sharers: How many fleets like this one, in processes of their own, ask the same endpoints
            for one job; where the concurrency is found out, each finds its part.
    """

    concurrency: int | None = None
    deadline: float = 300.0
    patience: float = 300.0
    impatient: bool = False
    sharers: int = 1


class Fleet:
    """Sends requests to endpoints within their limits; use it as an async context manager.

    `news` are lines that users should be told, the oldest first.

    Args:
        endpoints: The first endpoints, probed already.
        options: How it behaves.
    """

    def __init__(self, endpoints: Sequence[Endpoint], options: FleetOptions | None = None) -> None:
        if not endpoints:
            raise NoEndpointError("no endpoint was given")
        self.options = options or FleetOptions()
        self.news: deque[str] = deque(maxlen=100)
        self._first = tuple(endpoints)
        files, wanted = _most_open(), self.options.concurrency
        self._total = min(wanted or files, files)
        if wanted is not None and wanted > files:
            self.news.append(
                f"{files} requests are in flight and not {wanted}: each takes an open file, of "
                "which this process may have few (ulimit -n)"
            )
        self._dispatch = Dispatch(_tell, total=self._total)
        self._stations: dict[Member, Station] = {}
        self._sending = Sending(self._dispatch, self._stations, self._done, self._keep)
        self._past: list[tuple[str, Change]] = []
        self._put_off = 0
        self._keepers: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._adviser: Adviser | None = Adviser()
        self._waiting: set[asyncio.Future[None]] = set()
        self._up = asyncio.Event()

    async def __aenter__(self) -> Fleet:
        for endpoint in self._first:
            self.join(endpoint)
        self._keep(self._reweigh())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*self._closing, *(s.close() for s in self._stations.values()))

    @property
    def members(self) -> tuple[Station, ...]:
        """The endpoints that take work, those that are down among them."""
        return tuple(self._stations[member] for member in self._dispatch.members.values())

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return self._dispatch.in_flight

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return self._dispatch.waiting

    @property
    def put_off(self) -> int:
        """Requests that a full server sent back, and that are sent again."""
        return self._put_off

    @property
    def capacity(self) -> int:
        """Requests that may be in flight at present."""
        if self.options.concurrency:
            return self._total
        members = self._dispatch.members.values()
        return min(self._total, sum(member.limit.value for member in members))

    @property
    def hedged(self) -> int:
        """Late requests of the job's tail that were sent a second time."""
        return self._sending.hedged

    @property
    def down(self) -> bool:
        """Whether no endpoint can be reached, so that nothing in flight can end."""
        return not self._up.is_set()

    @property
    def state(self) -> str:
        """Why nothing moves, in a user's words; empty while an endpoint takes requests."""
        now, whys = time(), []
        for member in self._dispatch.members.values():
            why = member.down_why or ("full" if now < member.rests_until else "")
            if not why:
                return ""
            whys.append(f"{member.name}: {why}")
        return "; ".join(whys) or "no endpoint is left"

    @property
    def bottleneck(self) -> Wait:
        """What the fleet's requests wait for by now: engine, front end or client; empty where
        that is not known, and once nothing new comes."""
        if self._adviser is None or self.in_flight >= _USED * self._total:
            return ""
        members = self._dispatch.members.values()
        return bottleneck((m.limit.wait, m.limit.value) for m in members if not m.down_why)

    @property
    def queue(self) -> tuple[int, int] | None:
        """Requests that run and wait at the servers by their own count, whoever sent them; None
        where none of them says."""
        loads = [station.load for station in self.members if station.load is not None]
        if not loads:
            return None
        return round(sum(running for running, _ in loads)), round(sum(wait for _, wait in loads))

    def advice(self) -> str:
        """What helps, where something other than the engines has been the limit for long; to be
        asked for often, each advice is given once."""
        return "" if self._adviser is None else self._adviser.look(time(), self.bottleneck)

    def changes(self) -> list[tuple[str, Change]]:
        """The latest changes of all limits, each with its endpoint, in their order."""
        members = self._dispatch.members.values()
        now = [(member.name, change) for member in members for change in member.limit.changes]
        return sorted(self._past + now, key=lambda named: named[1].at)

    def join(self, endpoint: Endpoint) -> None:
        """An endpoint, probed already, that takes work from now on."""
        fixed, sharers = self.options.concurrency, self.options.sharers
        seats = endpoint.abilities.seats
        bounds = (
            LimitOptions(fixed, fixed, fixed)
            if fixed
            else LimitOptions(seats=seats, sharers=sharers)
        )
        member = self._dispatch.join(endpoint.url, Limit(bounds), time())
        self._stations[member] = Station(
            endpoint,
            member,
            self._dispatch,
            deadline=self.options.deadline,
            follows=fixed is None,
            turned=self._note_turn,
        )
        self._note_up()

    def leave(self, url: str) -> None:
        """Gives an endpoint nothing new; once what it has in flight has ended it is closed."""
        member = self._dispatch.members.get(url)
        if member is not None:
            self._past = (self._past + [(url, c) for c in member.limit.changes])[-100:]
            self._dispatch.leave(member, time())
            self._note_up()
            self._close_drained(member)

    def no_more(self) -> None:
        """Nothing new comes: from now on, what takes far too long is sent a second time."""
        self._adviser = None
        self._keep(self._sending.watch_tail())

    @contextlib.contextmanager
    def seat(self, home: str) -> Iterator[None]:
        """Keeps an image at one endpoint for as long as any of its tasks is under way.

        Args:
            home: The image.
        """
        self._dispatch.seat(home)
        try:
            yield
        finally:
            self._dispatch.unseat(home)

    async def ask(self, home: str, make_body: MakeBody, *, first: bool = False) -> Reply:
        """One request at the endpoint that is this image's home, or at one with more room.

        Waits for room; a server that says it is full is waited for, at no charge.

        Args:
            home: The same text for all requests about one image.
            make_body: Makes the request for the endpoint that was chosen.
            first: Goes before those who wait, as retries do.

        Raises:
            RejectedError, TransportError: As `Endpoint.send`.
            NoEndpointError: No endpoint was well for the whole patience.
        """
        full_since = 0.0
        try:
            while True:
                ticket = await self._place(home, first)
                try:
                    return await self._sending.send(ticket, home, make_body)
                except FullError as error:
                    self._put_off += not full_since
                    first, full_since = True, full_since or time()
                    self._require_patience(full_since, error)
                finally:
                    self._done(ticket)
        finally:
            self._put_off -= bool(full_since)

    @contextlib.asynccontextmanager
    async def relay(
        self, home: str, make_body: Callable[[Endpoint], bytes]
    ) -> AsyncIterator[tuple[Endpoint, httpx2.Response]]:
        """Somebody else's request, within the limits that all keep: who answers, and the response
        as it comes, whatever its status.

        Args:
            home: As for `ask`.
            make_body: Makes the request for the endpoint that was chosen.

        Raises:
            TransportError: No response began, or it breaks off while it is read.
            NoEndpointError: No endpoint was well for the whole patience.
        """
        while True:
            ticket = await self._place(home, first=False)
            begun = False
            try:
                station = self._stations[ticket.at]
                async with station.relay(make_body(station.endpoint)) as response:
                    begun = True
                    yield station.endpoint, response
                    return
            except UnreachableError:
                if begun:
                    raise
            finally:
                self._done(ticket)

    def answered_since(self, moment: float) -> bool:
        """Whether any endpoint answered after `moment` (event loop's clock)."""
        return any(station.last_answer > moment for station in self._stations.values())

    async def still_answers(self, url: str) -> bool:
        """Whether an endpoint that broke requests answers one about the test picture; if it does
        not, it takes no requests until it does, whatever it says of its health.

        Raises:
            NoEndpointError: It refuses the API key.
        """
        member = self._dispatch.members.get(url)
        if member is None:
            return False  # it has left since
        station = self._stations[member]
        try:
            await station.test()
        except (FullError, TransportError) as error:
            station.take_down(str(error))
            return False
        return True

    async def _place(self, home: str, first: bool) -> Ticket:
        ticket = self._dispatch.ask(home, time(), first=first)
        try:
            while ticket.member is None:
                if self._up.is_set():
                    ticket.waiter = nudge = asyncio.get_running_loop().create_future()
                    self._waiting.add(nudge)
                    try:
                        await nudge
                    finally:
                        self._waiting.discard(nudge)
                else:
                    await self._within_patience()
        except BaseException:
            self._done(ticket)
            raise
        return ticket

    async def _within_patience(self) -> None:
        try:
            async with asyncio.timeout(self.options.patience):
                await self._up.wait()
        except TimeoutError:
            raise NoEndpointError(
                f"no endpoint has answered for {self.options.patience:.0f} s ({self.state})"
            ) from None

    def _require_patience(self, full_since: float, error: FullError) -> None:
        patience = self.options.patience
        if time() - full_since <= patience:
            return
        if self.options.impatient or not self.answered_since(full_since):
            raise NoEndpointError(f"every endpoint has been full for {patience:.0f} s: {error}")

    def _done(self, ticket: Ticket) -> None:
        member = ticket.member
        self._dispatch.done(ticket, time())
        if member is not None and member.leaving:
            self._close_drained(member)

    def _close_drained(self, member: Member) -> None:
        if not member.in_flight and member in self._stations:
            task = asyncio.create_task(self._stations.pop(member).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _note_turn(self, member: Member) -> None:
        why = member.down_why
        self.news.append(f"{member.name} is {f'down: {why}' if why else 'up again'}")
        self._note_up()

    def _note_up(self) -> None:
        """Notes whether any endpoint is well; if none is, those that wait count their patience."""
        if any(not member.down_why for member in self._dispatch.members.values()):
            self._up.set()
            return
        self._up.clear()
        for nudge in self._waiting:
            if not nudge.done():
                nudge.set_result(None)

    async def _reweigh(self) -> None:
        while True:
            await asyncio.sleep(_REWEIGH)
            self._dispatch.reweigh()

    def _keep(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._keepers.add(task)
        task.add_done_callback(self._keepers.discard)
        return task


def _most_open() -> int:
    """Requests that may be in flight at once: most of the files that this process may open."""
    try:
        import resource
    except ImportError:  # Windows counts otherwise
        return _MANY
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MANY if files == resource.RLIM_INFINITY else max(1, files * 3 // 4 - 32)


def _tell(ticket: Ticket) -> None:
    """Wakes who waits for a place."""
    if isinstance(ticket.waiter, asyncio.Future) and not ticket.waiter.done():
        ticket.waiter.set_result(None)
