"""How much may be inside at once, how fast it may come, and what is told to the rest."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive

from joycap_vllm.gateway.limits import Limits
from joycap_vllm.gateway.reply import Refusal, RefusedError

FAILURES = (1 / 6, 10)  # wrong keys a second, and at once, from one address
_MOST_BUCKETS = 10_000
_AGAIN = 5  # seconds after which a full gateway may be asked again
_CLOSE = ("Connection", "close")


class OverError(RefusedError):
    """Ends a request with a refusal that has headers of its own."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message)
        self.refusal = refusal


@dataclass(slots=True)
class Gate:
    """What is inside by now.

    Args:
        inside: Requests that ask for work.
        held: Bytes of the bodies of all requests.
        draining: Whether nothing new is let in, because the gateway ends.
    """

    inside: int = 0
    held: int = 0
    draining: bool = False

    def refusal(self, queue: int) -> Refusal | None:
        """Why one more request for work cannot come in; None where it can.

        Args:
            queue: Most of them at once.
        """
        if self.draining:
            headers = (_retry(_AGAIN), _CLOSE)
            message = "the gateway ends and takes nothing new"
            return Refusal(503, message, "server_error", "draining", headers=headers)
        if self.inside >= queue:
            message = f"{queue} requests are under way here already; ask again in a moment"
            return Refusal(429, message, "requests", "queue_full", headers=(_retry(_AGAIN),))
        return None


class Buckets:
    """Token buckets, one for each caller.

    Args:
        rate: Tokens a second that each gets.
        burst: Tokens that it may save up, 1 at least.
        clock: Seconds.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, who: str) -> float:
        """Seconds until there is a token for a caller; 0 where there is one."""
        return max(0.0, (1.0 - self._tokens(who, self._clock())) / self._rate)

    def take(self, who: str) -> float:
        """As `wait`, and takes the token where there is one."""
        now = self._clock()
        tokens = self._tokens(who, now)
        self._left.pop(who, None)  # whoever came last stands last
        self._left[who] = (tokens - 1.0 if tokens >= 1.0 else tokens, now)
        if len(self._left) > _MOST_BUCKETS:
            del self._left[next(iter(self._left))]
        return max(0.0, (1.0 - tokens) / self._rate)

    def _tokens(self, who: str, now: float) -> float:
        tokens, at = self._left.get(who, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)


def too_often(wait: float, message: str) -> Refusal:
    """The refusal of a caller without a token."""
    headers = (_retry(math.ceil(wait)),)
    return Refusal(429, message, "requests", "rate_limit_exceeded", headers=headers)


def too_large(most: int) -> Refusal:
    """The refusal of a body that is over the limit."""
    shown = f"{most / 1e6:.0f} MB" if most >= 1e6 else f"{most:,} bytes"
    return Refusal(413, f"the request is over the limit of {shown}")


class Reading:
    """An ASGI `receive` that ends a body which is too large, or comes too slowly.

    Args:
        receive: What gives the body.
        limits: How slow it may be, and how much all bodies together may hold.
        gate: Where what it holds is counted, until `release`.
        upload: Whether it is a file that goes to disk: it may be larger, and holds no memory.
        said: Bytes that the caller said will come; too many are refused unread.
    """

    __slots__ = ("_began", "_gate", "_limits", "_receive", "_said", "_upload", "_whole", "size")

    def __init__(
        self, receive: Receive, limits: Limits, gate: Gate, *, upload: bool = False, said: int = 0
    ) -> None:
        self._receive = receive
        self._limits = limits
        self._gate = gate
        self._upload = upload
        self._said = said
        self._whole = False
        self._began = 0.0
        self.size = 0

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            OverError: Nothing came for too long (408), or too much (413, 429).
        """
        if self._whole:  # what may still come is the caller's leaving
            return await self._receive()
        loop, limits = asyncio.get_running_loop(), self._limits
        if self._said > (most := limits.most(upload=self._upload)):
            raise OverError(too_large(most))
        now = loop.time()
        self._began = self._began or now
        # A fair beginning, then no slower than the least rate; and never a long silence.
        until = min(self._began + limits.idle + self.size / limits.least_rate, now + limits.idle)
        try:
            async with asyncio.timeout_at(until):
                message = await self._receive()
        except TimeoutError:
            words = f"the request's body came too slowly ({self.size:,} bytes so far)"
            raise OverError(Refusal(408, words, headers=(_CLOSE,))) from None
        self._count(len(message.get("body", b"")))
        self._whole = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Counts the body as gone."""
        if not self._upload:
            self._gate.held -= self.size
        self.size = 0

    def _count(self, more: int) -> None:
        self.size += more
        if not self._upload:
            self._gate.held += more
        if self.size > (most := self._limits.most(upload=self._upload)):
            raise OverError(too_large(most))
        if self._gate.held > self._limits.held and not self._upload:
            message = "the requests that are under way fill the gateway's memory; ask again"
            headers = (_retry(_AGAIN), _CLOSE)
            raise OverError(Refusal(429, message, "requests", "queue_full", headers=headers))


def _retry(seconds: int) -> tuple[str, str]:
    return "Retry-After", str(max(1, seconds))
