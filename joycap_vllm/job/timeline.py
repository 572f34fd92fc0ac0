"""Counts over time and over latencies, in memory that does not grow with the job."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass

_WIDTHS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800, 2592000)
_MOST_CELLS = 4096
_STEPS = 8  # of a histogram, for each doubling: an error of at most 5 %


@dataclass(slots=True)
class Counts:
    """What happened in one interval: outcomes, good captions, requests, answers, bad answers."""

    outcomes: int = 0
    captions: int = 0
    requests: int = 0
    answers: int = 0
    glitches: int = 0

    def add(self, other: Counts) -> None:
        """Adds another interval's."""
        self.outcomes += other.outcomes
        self.captions += other.captions
        self.requests += other.requests
        self.answers += other.answers
        self.glitches += other.glitches

    @property
    def glitch_rate(self) -> float:
        """The part of the answers that is bad, from 0 to 1."""
        return self.glitches / self.answers if self.answers else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval: its start in seconds since 1970, the seconds that count, and what happened."""

    start: float
    seconds: float
    counts: Counts

    @property
    def captions_per_second(self) -> float:
        """Good captions a second."""
        return self.counts.captions / self.seconds


class Timeline:
    """Counts by time; intervals grow wider as there come to be many."""

    def __init__(self) -> None:
        self.began = math.inf
        self.ended = -math.inf
        self._width = 0  # index of the width
        self._cells: dict[int, Counts] = {}

    def add(self, at: float, counts: Counts) -> None:
        """Adds what was recorded at a moment, in seconds since 1970."""
        self.began, self.ended = min(self.began, at), max(self.ended, at)
        cell = self._cells.setdefault(int(at // _WIDTHS[self._width]), Counts())
        cell.add(counts)
        if len(self._cells) > _MOST_CELLS:
            self._width, self._cells = self._widened(_MOST_CELLS // 4)

    def intervals(self, most: int = 24) -> list[Interval]:
        """The intervals in which something happened, at most `most`, in order."""
        index, cells = self._widened(most)
        width = _WIDTHS[index]
        found = []
        for number in sorted(cells):
            start, end = number * width, (number + 1) * width
            seconds = min(end, self.ended) - max(start, self.began)
            found.append(Interval(start, max(seconds, 1.0), cells[number]))
        return found

    def _widened(self, most: int) -> tuple[int, dict[int, Counts]]:
        index, cells = self._width, self._cells
        while len(cells) > most and index + 1 < len(_WIDTHS):
            index += 1
            wider: dict[int, Counts] = {}
            for number, counts in self._cells.items():
                start = number * _WIDTHS[self._width]
                wider.setdefault(int(start // _WIDTHS[index]), Counts()).add(counts)
            cells = wider
        return index, cells


def moment(seconds: float) -> str:
    """A moment in seconds since 1970 as local date and time; `?` where no calendar has it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"


class Latencies:
    """Milliseconds of many requests; quantiles are right to 5 %."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, milliseconds: float) -> None:
        """Adds a request."""
        self._bins[round(math.log2(max(milliseconds, 0.1)) * _STEPS)] += 1

    def quantile(self, part: float) -> float | None:
        """Milliseconds that `part` of the requests stayed below; None without requests."""
        left = part * self._bins.total()
        for step in sorted(self._bins):
            left -= self._bins[step]
            if left <= 0:
                return float(2 ** (step / _STEPS))
        return None
