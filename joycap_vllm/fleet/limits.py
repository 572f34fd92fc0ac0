"""How many requests an endpoint gets at once: a pure state machine.

It starts slowly and doubles each round while all of the limit is used. It stops doubling at the
first sign of a full server, and from then on follows what the server says of itself. It reads no
clock and does no I/O; every change is kept with its reason.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

Wait = Literal["engine", "front end", "client", ""]

_CALM = 2.0  # seconds after a cut in which further signs of fullness say nothing new
_USED = 0.8  # share of the limit that must have been in flight for a round to count


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Bounds of a limit, in requests; `start == ceiling` makes it fixed."""

    start: int = 8
    floor: int = 1
    ceiling: int = 512
    seats: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a limit: when (by the caller's clock), from, to, and why."""

    at: float
    old: int
    new: int
    why: str


class Limit:
    """The limit of one endpoint; the caller reports what happens and reads `value`."""

    def __init__(self, options: LimitOptions | None = None) -> None:
        self._options = options or LimitOptions()
        self.value = min(self._options.start, self._options.ceiling)
        self.changes: deque[Change] = deque(maxlen=100)
        self.wait: Wait = ""
        self.rate = 0.0
        self._slow_start = True
        self._answers = 0
        self._peak = 0
        self._calm_until = -math.inf

    def on_sent(self, now: float, in_flight: int) -> None:  # noqa: ARG002
        """A request went out; `in_flight` counts it."""
        self._peak = max(self._peak, in_flight)

    def on_answer(self, now: float, seconds: float, in_flight: int) -> None:  # noqa: ARG002
        """A request was answered; a round is as many answers as the limit allows at once."""
        self._answers += 1
        if self._answers < self.value:
            return
        used, self._answers, self._peak = self._peak >= _USED * self.value, 0, 0
        if used and now >= self._calm_until:
            if self._slow_start:
                self._set(now, self.value * 2, "slow start: the whole limit was in use")
            else:
                more = max(1, self.value // 20)
                self._set(now, self.value + more, "no sign of a full server for a round")

    def on_full(self, now: float, pause: float | None = None) -> None:
        """The server refused a request as too many; `pause` are the seconds it asked for."""
        if now < self._calm_until:
            return
        self._slow_start = False
        self._calm_until = now + max(_CALM, pause or 0.0)
        self._set(now, int(self.value * 0.8), "the server says it is full")

    def on_back(self, now: float) -> None:
        """The server is well again after it was down."""

    def on_load(self, now: float, running: float, waiting: float, in_flight: int) -> None:  # noqa: ARG002
        """What the server's metrics say: requests being worked on, and requests queued."""
        if now < self._calm_until or waiting <= max(2.0, 0.1 * running):
            return
        self._slow_start = False
        self._calm_until = now + _CALM
        target = max(math.ceil(1.1 * running), self.value - math.ceil(waiting))
        if target < self.value:
            why = f"{waiting:.0f} requests wait at the server while {running:.0f} run"
            self._set(now, target, why)

    def _set(self, now: float, value: int, why: str) -> None:
        value = min(max(value, self._options.floor), self._options.ceiling)
        if value != self.value:
            self.changes.append(Change(now, self.value, value, why))
            self.value = value
            self._answers = self._peak = 0
