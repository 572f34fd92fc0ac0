"""How fast things come of late: sums over a sliding window, O(1) to add and to look at."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW = 60.0  # seconds
_LEAST = 5  # moments that are kept, however old, so that slow work has a rate too
_RESOLUTION = 1.0  # seconds that share a moment
_STALL = 15.0  # seconds of nothing that are no part of the rate of what came after them
_QUIET = 10.0  # seconds of nothing that are worth a word


@dataclass(slots=True)
class _Moment:
    """What came within a second: its first and last time, and how much."""

    first: float
    last: float
    amounts: list[float]


class Pace:
    """The rates of a few amounts over the last minute; the caller tells the time.

    What comes at equal distances has one and the same rate at every look; when nothing comes, the
    rate falls towards nothing.

    Args:
        names: How many amounts there are.
    """

    def __init__(self, names: int) -> None:
        self._sums = [0.0] * names
        # The first moment is where counting starts; what came in it is not in the sums.
        self._moments: deque[_Moment] = deque()

    def add(self, now: float, began: float, *amounts: float) -> None:
        """Something came.

        Args:
            now: When.
            began: When the work for it began; of the first of all, that is where counting starts.
            amounts: How much of each.
        """
        if not self._moments:
            self._moments.append(_Moment(began, began, []))
        newest = self._moments[-1]
        if len(self._moments) > 1 and now - newest.first < _RESOLUTION:
            newest.last = now
            newest.amounts = [a + b for a, b in zip(newest.amounts, amounts, strict=True)]
        else:
            self._moments.append(_Moment(now, now, list(amounts)))
            self._forget(now)
        self._sums = [a + b for a, b in zip(self._sums, amounts, strict=True)]

    def rates(self, now: float) -> list[float]:
        """Of each amount, how much came a second."""
        self._forget(now)
        span = self._span(now)
        return [amount / span if span else 0.0 for amount in self._sums]

    def quiet(self, now: float, since: float) -> float:
        """Seconds since anything came, where that is longer than usual; else 0.

        Args:
            now: The time.
            since: When it was first waited for.
        """
        gap = now - (self._moments[-1].last if self._moments else since)
        return gap if gap > max(_QUIET, 2 * self._usual_gap()) else 0.0

    def settled(self, now: float) -> bool:
        """Whether enough came, and not too long ago, to tell how long the rest will take."""
        if len(self._moments) < 2 or now - self._moments[0].last < 3 * _RESOLUTION:
            return False
        return now - self._moments[-1].last <= max(_WINDOW, 4 * self._usual_gap())

    def _usual_gap(self) -> float:
        counted = len(self._moments) - 1
        return (self._moments[-1].last - self._moments[0].last) / counted if counted > 0 else 0.0

    def _span(self, now: float) -> float:
        counted = len(self._moments) - 1
        if counted < 1:
            return 0.0
        start, following = self._moments[0].last, self._moments[1]
        after_stall = following.first - start > _STALL and following.last > now - _WINDOW
        if after_stall and counted >= _LEAST:
            start = min(now - _WINDOW, following.first)
        # A pause after the last moment counts once it is longer than those between moments.
        until_now = (now - start) * counted / (counted + 1)
        return max(self._moments[-1].last - start, until_now, _RESOLUTION)

    def _forget(self, now: float) -> None:
        while len(self._moments) > _LEAST + 1 and self._moments[1].last <= now - _WINDOW:
            self._moments.popleft()
            gone = self._moments[0].amounts
            self._sums = [a - b for a, b in zip(self._sums, gone, strict=True)]
