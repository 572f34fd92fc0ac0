"""What vLLM's gauges say of an engine: full, with room, or starved by its front end."""

from __future__ import annotations

import math

SLACK = 1.1  # in flight over what the engine works on, so that it never waits for the client
QUEUE = 0.15  # share of what runs that may wait at the engine
_STALE = 5.0  # seconds after which a gauge says nothing


class Gauges:
    """What vLLM's gauges say, once two looks at them in a row agree."""

    __slots__ = (
        "_at",
        "_others",
        "_running",
        "_waiting",
        "front_end",
        "full",
        "lost",
        "polls",
        "room",
    )

    def __init__(self) -> None:
        self._at = -math.inf
        self._running = self._waiting = self._others = 0.0
        self.lost = 0.0
        self.front_end = False
        self.forget()

    def forget(self) -> None:
        """The limit moved: what was seen so far says nothing of the new one."""
        self.polls = 0
        self.full = self.room = False

    @property
    def waits(self) -> bool:
        """Whether more than a little waits at the engine."""
        return self._waiting > 0.02 * self._running

    def fresh(self, now: float) -> bool:
        return now - self._at < _STALE

    def add(self, now: float, running: float, waiting: float, in_flight: int) -> None:
        lost = in_flight - running - waiting
        self.lost = lost / max(1, in_flight)
        front_end = lost > max(2.0, 0.25 * in_flight) and waiting < lost
        again = self.polls > 0 and self.fresh(now)
        least = min(waiting, self._waiting) if again else 0.0
        most = max(waiting, self._waiting) if again else math.inf
        # A backlog of prompts after a rise also waits, but then more and more run.
        self.full = least > QUEUE * running and running <= 1.05 * self._running + 1
        self.room = most <= 0.02 * running and not front_end
        self.front_end = front_end and (again or self.front_end)
        self._at, self._running, self._waiting = now, running, waiting
        self._others = max(0.0, -lost)
        self.polls += 1

    def own_share(self, in_flight: int, sharers: int) -> float:
        """Requests to have in flight so that the engine is full and little waits, where so many
        such shares belong together."""
        total = self._running + self._waiting
        target = SLACK * self._running * min(1.0, in_flight / total)
        if self._others > 0.2 * total:  # who yields to a neighbour that does not gets nothing
            target = max(target, self._running / (1 + sharers))
        return target
