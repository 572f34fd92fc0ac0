"""All endpoints of a job: who takes the next request, who rests, who is down."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from joycap_vllm.errors import (
    FullError,
    NoEndpointError,
    RejectedError,
    RequestError,
    TransportError,
    UnreachableError,
)
from joycap_vllm.fleet.answer import Answer
from joycap_vllm.fleet.endpoint import Endpoint
from joycap_vllm.fleet.limits import Limit, LimitOptions
from joycap_vllm.fleet.proof import proof_request

_POLL = 1.0  # seconds between two looks at a server's metrics
_POLL_TO_SHOW = 2.0  # the same, where no limit follows them
_PROBE = (0.25, 5.0)  # first and longest pause between two looks at a server that is down
_FAILURES = 5  # broken requests in a row after which a server has to show that it is well
_PAUSE_WHEN_FULL = 1.0  # seconds without new requests where the server names none
_PAUSE_BOUNDS = (0.25, 60.0)  # whatever it names


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet behaves.

    Args:
        concurrency: Requests in flight over the whole fleet; None finds it out.
        deadline: Seconds after which a request is given up and its connection closed.
        patience: Seconds that a job waits while no endpoint can be reached.
    """

    concurrency: int | None = None
    deadline: float = 300.0
    patience: float = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, the endpoint that gave it, and the milliseconds that it took."""

    endpoint: str
    answer: Answer
    milliseconds: float


class _Member:
    """An endpoint and its state."""

    def __init__(self, endpoint: Endpoint, limit: Limit) -> None:
        self.endpoint = endpoint
        self.limit = limit
        self.in_flight = 0
        self.rests_until = 0.0
        self.down_why = ""
        self.failures = 0
        self.last_answer = 0.0
        self.load: tuple[float, float] | None = None

    def free(self, now: float) -> bool:
        rests = self.down_why or now < self.rests_until
        return not rests and self.in_flight < self.limit.value

    def rank(self, home: str) -> bytes:
        return blake2b(f"{self.endpoint.url}\n{home}".encode(), digest_size=8).digest()


class Fleet:
    """Sends requests to endpoints within their limits; use it as an async context manager.

    Args:
        endpoints: The endpoints, probed already.
        options: How it behaves.
    """

    def __init__(self, endpoints: Sequence[Endpoint], options: FleetOptions | None = None) -> None:
        if not endpoints:
            raise NoEndpointError("no endpoint was given")
        self.options = options or FleetOptions()
        fixed = self.options.concurrency
        bounds = LimitOptions(start=fixed, ceiling=fixed) if fixed else LimitOptions()
        self.members = tuple(_Member(endpoint, Limit(bounds)) for endpoint in endpoints)
        self.in_flight = 0
        self._waiting: list[tuple[bool, int, str, asyncio.Future[_Member]]] = []
        self._order = itertools.count()
        self._keepers: set[asyncio.Task[None]] = set()
        self._up = asyncio.Event()
        self._up.set()

    async def __aenter__(self) -> Fleet:
        for member in self.members:
            if member.endpoint.abilities.metrics:
                self._keep(self._follow_load(member))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for member in self.members:
            await member.endpoint.close()

    @property
    def capacity(self) -> int:
        """Requests that may be in flight at present."""
        return self.options.concurrency or sum(member.limit.value for member in self.members)

    @property
    def down(self) -> bool:
        """Whether no endpoint can be reached, so that nothing in flight can end."""
        return not self._up.is_set()

    @property
    def state(self) -> str:
        """Why nothing moves, in a user's words; empty while an endpoint takes requests."""
        now = _now()
        whys = [m.down_why or ("full" if now < m.rests_until else "") for m in self.members]
        if not all(whys):
            return ""
        return "; ".join(f"{m.endpoint.url}: {w}" for m, w in zip(self.members, whys, strict=True))

    @property
    def queue(self) -> tuple[int, int] | None:
        """Requests that run and wait at the servers by their own count, whoever sent them; None
        where none of them says."""
        loads = [member.load for member in self.members if member.load is not None]
        if not loads:
            return None
        return round(sum(running for running, _ in loads)), round(sum(wait for _, wait in loads))

    async def ask(
        self, home: str, make_body: Callable[[Endpoint], bytes], *, first: bool = False
    ) -> Reply:
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
        while True:
            async with self._place(home, first) as member:
                began = _now()
                try:
                    answer = await member.endpoint.send(
                        make_body(member.endpoint), self.options.deadline
                    )
                except FullError as error:
                    self._rest(member, error)
                    full_since = full_since or _now()
                    self._require_patience(full_since, error)
                    continue
                except RequestError as error:
                    if isinstance(error, TransportError):
                        self._failed(member, error)
                    error.endpoint = member.endpoint.url
                    error.milliseconds = (_now() - began) * 1000
                    raise
                now = _now()
                member.failures, member.last_answer = 0, now
                member.limit.on_answer(now, now - began, member.in_flight)
                return Reply(member.endpoint.url, answer, (now - began) * 1000)

    def answered_since(self, moment: float) -> bool:
        """Whether any endpoint answered after `moment` (event loop's clock)."""
        return any(member.last_answer > moment for member in self.members)

    async def still_answers(self, url: str) -> bool:
        """Whether an endpoint that broke requests answers one about the test picture; if it does
        not, it takes no requests until it does, whatever it says of its health.

        Raises:
            NoEndpointError: It refuses the API key.
        """
        member = next(member for member in self.members if member.endpoint.url == url)
        try:
            await self._test(member)
        except (FullError, TransportError) as error:
            self._take_down(member, str(error))
            return False
        return True

    @contextlib.asynccontextmanager
    async def _place(self, home: str, first: bool) -> AsyncIterator[_Member]:
        member = self._best(home) if not self._waiting else None
        if member is None:
            member = await self._wait_for_place(home, first)
        else:
            self._take(member)
        try:
            yield member
        finally:
            member.in_flight -= 1
            self.in_flight -= 1
            self._wake()

    async def _wait_for_place(self, home: str, first: bool) -> _Member:
        place: asyncio.Future[_Member] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (not first, next(self._order), home, place))
        self._wake()
        try:
            while not place.done():
                await self._within_patience(place)
            return place.result()
        except BaseException:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._release(place.result())
            place.cancel()
            raise

    async def _within_patience(self, place: asyncio.Future[_Member]) -> None:
        if self._up.is_set():
            await asyncio.wait({place}, timeout=1.0)
            return
        try:
            async with asyncio.timeout(self.options.patience):
                await self._up.wait()
        except TimeoutError:
            raise NoEndpointError(
                f"no endpoint has answered for {self.options.patience:.0f} s ({self.state})"
            ) from None

    def _best(self, home: str) -> _Member | None:
        total = self.options.concurrency
        if total and self.in_flight >= total:
            return None
        now = _now()
        free = [member for member in self.members if member.free(now)]
        if not free:
            return None
        at_home = max(self.members, key=lambda member: member.rank(home))
        if at_home in free:
            return at_home
        return min(free, key=lambda member: member.in_flight / member.limit.value)

    def _take(self, member: _Member) -> None:
        member.in_flight += 1
        self.in_flight += 1
        member.limit.on_sent(_now(), member.in_flight)

    def _release(self, member: _Member) -> None:
        member.in_flight -= 1
        self.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            _, _, home, place = self._waiting[0]
            if place.done():
                heapq.heappop(self._waiting)
                continue
            member = self._best(home)
            if member is None:
                return
            heapq.heappop(self._waiting)
            self._take(member)
            place.set_result(member)

    def _require_patience(self, full_since: float, error: FullError) -> None:
        patience = self.options.patience
        if _now() - full_since > patience and not self.answered_since(full_since):
            raise NoEndpointError(f"every endpoint has been full for {patience:.0f} s: {error}")

    def _rest(self, member: _Member, error: FullError) -> None:
        named = error.retry_after if error.retry_after is not None else _PAUSE_WHEN_FULL
        pause = min(max(named, _PAUSE_BOUNDS[0]), _PAUSE_BOUNDS[1])
        member.limit.on_full(_now(), pause)
        member.rests_until = max(member.rests_until, _now() + pause)
        asyncio.get_running_loop().call_later(pause + 0.001, self._wake)

    def _failed(self, member: _Member, error: TransportError) -> None:
        member.failures += 1
        if isinstance(error, UnreachableError) or member.failures >= _FAILURES:
            self._take_down(member, str(error))

    def _take_down(self, member: _Member, why: str) -> None:
        member.failures = 0
        if not member.down_why:
            member.down_why = why
            self._keep(self._revive(member))
        if all(m.down_why for m in self.members):
            self._up.clear()

    async def _test(self, member: _Member) -> None:
        """Asks about the test picture; as `Endpoint.send`, but whatever words come will do."""
        with contextlib.suppress(RejectedError):  # who judges a request is at work
            await member.endpoint.send(proof_request(member.endpoint), self.options.deadline)
        member.last_answer = _now()

    async def _is_back(self, member: _Member) -> bool:
        if not await member.endpoint.healthy():
            return False
        try:
            await self._test(member)
        except RequestError:
            return False
        except NoEndpointError:  # the next request will tell that the key is refused
            pass
        return True

    async def _revive(self, member: _Member) -> None:
        pause = _PROBE[0]
        while not await self._is_back(member):
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PROBE[1])
        await asyncio.sleep(_PROBE[0])
        member.down_why = ""
        self._up.set()
        self._wake()

    async def _follow_load(self, member: _Member) -> None:
        limit_follows = self.options.concurrency is None
        while True:
            await asyncio.sleep(_POLL if limit_follows else _POLL_TO_SHOW)
            member.load = None if member.down_why else await member.endpoint.load()
            if limit_follows and member.load is not None:
                member.limit.on_load(_now(), *member.load, member.in_flight)
                self._wake()

    def _keep(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._keepers.add(task)
        task.add_done_callback(self._keepers.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
