"""One endpoint of a running fleet, and its care: the breaker, the test picture, its metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx2

from joycap_vllm.errors import (
    FullError,
    NoEndpointError,
    RejectedError,
    RequestError,
    TransportError,
    UnreachableError,
)
from joycap_vllm.fleet.answer import Answer
from joycap_vllm.fleet.body import Body
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.endpoint import Endpoint
from joycap_vllm.fleet.places import Member, Ticket
from joycap_vllm.fleet.proof import proof_request

_POLL = 1.0  # seconds between two looks at a server's metrics
_POLL_AT_START = 0.25  # the same, while its limit looks for its size
_POLL_TO_SHOW = 2.0  # the same, where no limit follows them
_PROBE = (0.25, 5.0)  # first and longest pause between two looks at a server that is down
_FAILURES = 5  # broken requests in a row after which a server has to show that it is well
_PAUSE_WHEN_FULL = 1.0  # seconds without new requests where the server names none
_PAUSE_BOUNDS = (0.25, 60.0)  # whatever it names
_RECENT = 256  # answers whose durations are remembered

time = monotonic  # the clock of asyncio's loops, without asking for the loop first

MakeBody = Callable[[Endpoint], Body]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, the endpoint that gave it, and the milliseconds that it took."""

    endpoint: str
    answer: Answer
    milliseconds: float


class Station:
    """An endpoint, its place in the dispatch, and what keeps it.

    Args:
        endpoint: The endpoint, probed already.
        member: Its place.
        dispatch: Where that is.
        deadline: Seconds for a request.
        follows: Whether its limit follows its metrics.
        turned: Called with its place when it goes down, and when it is up again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        member: Member,
        dispatch: Dispatch,
        *,
        deadline: float,
        follows: bool,
        turned: Callable[[Member], None],
    ) -> None:
        self.endpoint = endpoint
        self.member = member
        self.last_answer = 0.0
        self.load: tuple[float, float] | None = None
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self._dispatch = dispatch
        self._deadline = deadline
        self._follows = follows
        self._turned = turned
        self._failures = 0
        self._keepers: set[asyncio.Task[None]] = set()
        if endpoint.abilities.metrics:
            self._keep(self._follow_load())

    @property
    def down_why(self) -> str:
        """Why it takes no requests until it has shown that it is well; empty while it is."""
        return self.member.down_why

    async def close(self) -> None:
        """Ends its care and closes its connections."""
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self.endpoint.close()

    async def send(self, ticket: Ticket, body: Body) -> Reply:
        """One request at the place that its ticket has here.

        Raises:
            As `Endpoint.send`; request errors tell the endpoint and the milliseconds.
        """
        began = time()
        try:
            answer = await self.endpoint.send(body, self._deadline)
        except RequestError as error:
            error.endpoint, error.milliseconds = self.endpoint.url, (time() - began) * 1000
            if isinstance(error, FullError):
                self._rest(ticket, error)
            elif isinstance(error, TransportError):
                self._failed(error)
            raise
        now = time()
        self._failures, self.last_answer = 0, now
        self.recent.append(now - began)
        self._dispatch.answered(ticket)
        self.member.limit.on_answer(now, ticket.sent, self.member.in_flight)
        return Reply(self.endpoint.url, answer, (now - began) * 1000)

    @contextlib.asynccontextmanager
    async def relay(self, body: bytes) -> AsyncIterator[httpx2.Response]:
        """As `Endpoint.relay`, with the deadline of a request as the longest silence."""
        try:
            async with self.endpoint.relay(body, self._deadline) as response:
                self._failures, self.last_answer = 0, time()
                yield response
        except TransportError as error:
            error.endpoint = self.endpoint.url
            self._failed(error)
            raise

    def take_down(self, why: str) -> None:
        """Gives it no requests until it answers the test picture."""
        self._failures = 0
        if not self.member.down_why and not self.member.leaving:
            self._dispatch.down(self.member, why, time())
            self._turned(self.member)
            self._keep(self._revive())

    async def test(self) -> None:
        """Asks about the test picture; as `Endpoint.send`, but whatever words come will do."""
        with contextlib.suppress(RejectedError):  # who judges a request is at work
            await self.endpoint.send(proof_request(self.endpoint), self._deadline)
        self.last_answer = time()

    def _failed(self, error: TransportError) -> None:
        self._failures += 1
        if isinstance(error, UnreachableError) or self._failures >= _FAILURES:
            self.take_down(str(error))

    def _rest(self, ticket: Ticket, error: FullError) -> None:
        named = error.retry_after if error.retry_after is not None else _PAUSE_WHEN_FULL
        pause, now = min(max(named, _PAUSE_BOUNDS[0]), _PAUSE_BOUNDS[1]), time()
        self.member.limit.on_full(now, pause)
        self._dispatch.rest(self.member, now + pause, now)
        self._dispatch.refused(ticket, now)
        asyncio.get_running_loop().call_later(pause + 0.001, self._wake)

    async def _is_back(self) -> bool:
        if not await self.endpoint.healthy():
            return False
        try:
            await self.test()
        except RequestError:
            return False
        except NoEndpointError:  # the next request will tell that the key is refused
            pass
        return True

    async def _revive(self) -> None:
        pause = _PROBE[0]
        while not await self._is_back():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PROBE[1])
        await asyncio.sleep(_PROBE[0])
        self._dispatch.up(self.member, time())
        self._turned(self.member)

    async def _follow_load(self) -> None:
        while True:
            await asyncio.sleep(self._pause())
            self.load = None if self.down_why else await self.endpoint.load()
            if self._follows and self.load is not None:
                self.member.limit.on_load(time(), *self.load, self.member.in_flight)
                self._wake()

    def _pause(self) -> float:
        if not self._follows:
            return _POLL_TO_SHOW
        return _POLL_AT_START if self.member.limit.is_starting else _POLL

    def _wake(self) -> None:
        self._dispatch.wake(self.member, time())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._keepers.add(task)
        task.add_done_callback(self._keepers.discard)
