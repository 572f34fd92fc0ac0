"""What is seen of an endpoint while its limit stays: how many in flight, and how fast."""

from __future__ import annotations

import math
from typing import NamedTuple


class Sent(NamedTuple):
    """When a request went out, and the number of the answer whose place it took; -1: no one's."""

    at: float
    after: int


class Look:
    """A measurement at one limit, as long as so many answers, not seconds: it fits any speed.

    What was in flight when the limit moved says nothing of the new one, so only requests sent since
    count. Each brings the answers that came in its life, its own with them, and the seconds of its
    life. Requests that are alike and were sent together come back together, and however blurred
    such a burst is, who took its n-th answer's place comes back as about the n-th of the next, one
    whole burst later. A span of time would hold a burst more or less; and who took no one's place,
    but was sent as the limit rose, would bring half a burst too few, so it does not count.

    Args:
        since: The endpoint's latest answer; who took an earlier one's place does not count.
        need: Requests after which it is done; or four times as many that do not all count, as
            where the client is slow and answers' places stay empty for a while.
    """

    __slots__ = (
        "_answers",
        "_crowd",
        "_met",
        "_seconds",
        "_squares",
        "count",
        "least",
        "need",
        "since",
    )

    def __init__(self, since: float = 0, need: float = math.inf) -> None:
        self.since = since
        self.need = need
        self.count = self._met = 0
        self.least = math.inf
        self._answers = self._crowd = self._seconds = self._squares = 0.0

    def add(self, now: float, number: int, sent: Sent, in_flight: int) -> bool:
        """The endpoint's answer of that number, while so many were in flight; True when done."""
        latency = now - sent.at
        self.least = min(self.least, latency)
        self._met += 1
        if sent.after >= self.since:
            self.count += 1
            self._crowd += in_flight
            self._answers += number - sent.after
            self._seconds += latency
            self._squares += latency * latency
        return self.count >= self.need or (self.count > 0 and self._met >= 4 * self.need)

    def pool(self, other: Look) -> None:
        """Adds what another look saw; old sights fade."""
        fade = 2 if self.count > 4 * other.count else 1
        self.count = self.count // fade + other.count
        self._answers = self._answers / fade + other._answers
        self._crowd = self._crowd / fade + other._crowd
        self._seconds = self._seconds / fade + other._seconds
        self._squares = self._squares / fade + other._squares

    @property
    def in_flight(self) -> float:
        """Mean requests in flight."""
        return self._crowd / self.count if self.count else 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self._answers / max(self._seconds, 1e-6)

    @property
    def latency(self) -> float:
        """Mean seconds of a request, by Little's law."""
        return self.in_flight / self.rate if self.count else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the latency, as a share of its mean."""
        if self.count < 2:
            return 0.0
        return math.sqrt(max(0.0, self._squares * self.count / max(self._seconds, 1e-9) ** 2 - 1.0))


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
