"""What is seen of an endpoint while its limit stays: how many in flight, and how fast."""

from __future__ import annotations

import math


class Look:
    """A measurement at one limit, as long as so many answers, not seconds: it fits any speed.

    What was in flight when the limit moved says nothing of the new one; it is answered first, so
    as many answers are left out. Requests that are alike and were sent together come back
    together, so a look begins and ends at a gap between answers: it holds whole bursts. Mean
    latencies would not do: of those sent since, the quick are answered first.

    Args:
        skip: Answers to leave out.
        need: Answers after which it is done.
    """

    __slots__ = (
        "_crowd",
        "_last",
        "_seconds",
        "_squares",
        "_sum",
        "count",
        "least",
        "need",
        "skip",
    )

    def __init__(self, skip: float = 0, need: float = math.inf) -> None:
        self.skip = skip
        self.need = need
        self.count = 0
        self.least = math.inf
        self._last = math.nan
        self._crowd = self._seconds = self._sum = self._squares = 0.0

    def start(self, now: float) -> None:
        """A request went out: where nothing was in flight before, its time counts from now."""
        if math.isnan(self._last):
            self._last = now

    def add(self, now: float, latency: float, in_flight: int) -> bool:
        """An answer after so many seconds while so many were in flight; True when it is done."""
        last, self._last = self._last, now
        if self.skip > 0 or math.isnan(last):
            self.skip -= 1
            return False
        gap = now - last
        pace = self._seconds / self.count if self.count else latency / in_flight
        if gap >= 0.5 * pace:
            if self.count >= self.need:
                return True
        elif not self.count:
            return False
        self.count += 1
        self._seconds += gap
        self._crowd += in_flight
        self._sum += latency
        self.least = min(self.least, latency)
        self._squares += latency * latency
        return False

    def pool(self, other: Look) -> None:
        """Adds what another look saw; old sights fade."""
        fade = 2 if self.count > 4 * other.count else 1
        self.count = self.count // fade + other.count
        self._seconds = self._seconds / fade + other._seconds
        self._crowd = self._crowd / fade + other._crowd
        self._sum = self._sum / fade + other._sum
        self._squares = self._squares / fade + other._squares

    @property
    def in_flight(self) -> float:
        """Mean requests in flight."""
        return self._crowd / self.count if self.count else 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.count / max(self._seconds, 1e-6)

    @property
    def latency(self) -> float:
        """Mean seconds of a request, by Little's law."""
        return self.in_flight / self.rate if self.count else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the latency, as a share of its mean."""
        if self.count < 2:
            return 0.0
        return math.sqrt(max(0.0, self._squares * self.count / max(self._sum, 1e-9) ** 2 - 1.0))


def noise(low: Look, high: Look) -> float:
    """Standard error of the ratio of two looks' rates."""
    few = 0.3 / math.sqrt(
        max(1, min(low.count, high.count))
    )  # how little the spread itself is known
    wide = math.hypot(max(low.spread, high.spread), few)
    return wide * math.sqrt(1 / max(1, low.count) + 1 / max(1, high.count))


def gain(low: Look, high: Look) -> tuple[float, float]:
    """How much of more requests in flight came out as rate: 1 is all of it, 0 nothing.

    Returns:
        The share (d log rate / d log in flight), and its standard error; (1, 0) where nothing
        was seen yet with fewer.
    """
    if not low.count:
        return 1.0, 0.0
    step = math.log(max(high.in_flight, 1e-6) / max(low.in_flight, 1e-6))
    if step < 0.02:
        return 0.0, math.inf
    return math.log(high.rate / max(low.rate, 1e-9)) / step, noise(low, high) / step


def turned(known: Look, seen: Look) -> bool:
    """Whether a server has become slower or faster at the same limit, by more than noise."""
    return abs(math.log(seen.latency / known.latency)) > max(0.25, 3 * noise(known, seen))


def stepped(known: Look, value: int, step: float) -> int:
    """A limit times `step`: at least one request more or less, and further where the noise of a
    round would hide so small a step."""
    hidden = min(1.0 if step > 1 else 0.4, 2 * known.spread / math.sqrt(value))
    size = max(1, round(max(abs(step - 1.0), hidden) * value))
    return value + size if step > 1 else value - size


def answers_for(known: Look, value: int, step: float) -> float:
    """Answers that a look must see to tell what a step by a factor does from noise."""
    rounds = 1 if abs(math.log(step)) > 0.3 else 2
    return max(rounds * value, 4, min(400.0, (2 * known.spread / math.log(step)) ** 2))
