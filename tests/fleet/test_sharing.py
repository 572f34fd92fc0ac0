"""Several processes that look for one server's limit at once: no more together than one alone."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass

import pytest

from joycap_vllm.fleet import Limit, LimitOptions
from joycap_vllm.fleet.look import Sent

SECONDS = 300.0


@dataclass
class Found:
    """What came of it: requests in flight at most and at the end, and the engine's use, 0 to 1."""

    peak: int
    at_end: int
    used: float


class Crowd:
    """Limits that share a server of so many slots, whose requests take a second each, in virtual
    time.

    Args:
        limits: How many.
        sharers: How many each believes they are.
        slots: Requests that the server works on at once.
        gauges: Whether it shows what runs and waits.
    """

    def __init__(self, limits: int, sharers: int, slots: int, *, gauges: bool) -> None:
        options = LimitOptions(seats=slots if gauges else None, sharers=sharers)
        self.limits = [Limit(options) for _ in range(limits)]
        self.in_flight = [0] * limits
        self._slots, self._gauges = slots, gauges
        self._queue: deque[tuple[int, Sent]] = deque()
        self._events: list[tuple[float, int, int, Sent]] = []
        self._draw = random.Random(3)
        self._number = 0

    def run(self) -> Found:
        now = polled = 0.0
        done = peak = running = 0
        while now < SECONDS:
            for at, limit in enumerate(self.limits):
                while self.in_flight[at] < limit.value:
                    self.in_flight[at] += 1
                    self._queue.append((at, limit.on_sent(now)))
            while self._queue and running < self._slots:
                running += 1
                self._number += 1
                took = self._draw.lognormvariate(-0.045, 0.3)
                heapq.heappush(self._events, (now + took, self._number, *self._queue.popleft()))
            peak = max(peak, sum(self.in_flight))
            now, _, at, sent = heapq.heappop(self._events)
            running, done = running - 1, done + 1
            self.limits[at].on_answer(now, sent, self.in_flight[at])
            self.in_flight[at] -= 1
            if self._gauges and now >= polled:
                polled = now + (0.25 if any(limit.is_starting for limit in self.limits) else 1.0)
                for limit, mine in zip(self.limits, self.in_flight, strict=True):
                    limit.on_load(now, running, len(self._queue), mine)
        return Found(peak, sum(self.in_flight), done / SECONDS / self._slots)


def test_they_begin_together_with_what_one_alone_would() -> None:
    assert [LimitOptions(seats=64, sharers=n).first for n in (1, 4, 200)] == [71, 18, 1]
    assert [LimitOptions(sharers=n).first for n in (1, 2, 64)] == [4, 2, 1]
    assert LimitOptions(sharers=64).most == 16


@pytest.mark.parametrize("limits", [4, 16])
@pytest.mark.parametrize("slots", [64, 256])
def test_by_a_vllms_own_counts_they_fill_it_and_let_little_wait(limits: int, slots: int) -> None:
    found = Crowd(limits, limits, slots, gauges=True).run()

    assert found.used > 0.98
    assert found.at_end < 1.3 * slots
    assert found.peak <= 4.5 * slots


@pytest.mark.parametrize("limits", [4, 16])
def test_without_such_counts_none_takes_the_others_part_for_ever(limits: int) -> None:
    """Whoever has more requests in a full server's queue gets more of its answers."""
    blind = Crowd(limits, 1, 256, gauges=False).run()
    aware = Crowd(limits, limits, 256, gauges=False).run()

    assert blind.at_end > 1500, "else this shows nothing"
    assert aware.used > 0.95
    assert aware.at_end < 3 * 256
    assert aware.peak <= 1024
