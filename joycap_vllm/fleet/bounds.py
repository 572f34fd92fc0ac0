"""The bounds of an endpoint's limit, and the record of its changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from joycap_vllm.fleet.gauges import SLACK


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Bounds of a limit, in requests; `start == floor == ceiling` makes it fixed.

    Args:
        start: The first limit where nothing is known of the server.
        seats: Requests that the server works on at once, where it says so: the first guess.
        sharers: How many limits like this one the same server has, in processes that begin with it
            at about the same time; together they begin with what one alone would, and their
            ceilings add up to its.
    """

    start: int = 4
    floor: int = 1
    ceiling: int = 1024  # as many as there are connections
    seats: int | None = None
    sharers: int = 1

    @property
    def first(self) -> int:
        """The first limit."""
        start = self.start if self.seats is None else SLACK * self.seats
        return min(max(math.ceil(start / self.sharers), self.floor), self.most)

    @property
    def most(self) -> int:
        """The ceiling of this one's part."""
        return max(math.ceil(self.ceiling / self.sharers), self.floor)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a limit: when (by the caller's clock), from, to, and why."""

    at: float
    old: int
    new: int
    why: str
