"""Which level of concurrency to measure next, and which of those measured is the knee."""

from __future__ import annotations

from collections.abc import Mapping

START = 8
CEILING = 2048
_RISES = 1.10  # a doubling that brings less than this is none
_NEARLY = 0.95  # of the best rate, which the knee has to reach
_FINE = 0.34  # part of the knee by which the level below it may differ


def knee_of(rates: Mapping[int, float]) -> int | None:
    """The smallest level with at least 95 % of the best rate; None where nothing was answered.

    Args:
        rates: Answers a second by level, in requests in flight.
    """
    best = max(rates.values(), default=0.0)
    return min((n for n, r in rates.items() if r >= _NEARLY * best), default=None) if best else None


def is_rising(rates: Mapping[int, float]) -> bool:
    """Whether the highest level is still clearly better than all below it."""
    top = max(rates, default=0)
    lower = [rate for level, rate in rates.items() if level < top]
    return bool(lower) and rates[top] > _RISES * max(lower)


def next_level(rates: Mapping[int, float], ceiling: int = CEILING) -> int | None:
    """The level to measure next; None where the knee is known well enough.

    It doubles while the rate rises, goes down where the first level was past the knee already, and
    takes one finer step between the knee and the level below it.

    Args:
        rates: Answers a second by level, of the levels measured so far.
        ceiling: Highest level that may be asked for.
    """
    if not rates:
        return min(START, ceiling)
    top = max(rates)
    if top < ceiling and (len(rates) == 1 or is_rising(rates)):
        return min(2 * top, ceiling)
    knee = knee_of(rates)
    if knee is None or knee == 1:
        return None
    below = max((level for level in rates if level < knee), default=None)
    if below is None:
        return knee // 2
    return (below + knee) // 2 if knee - below > max(1, _FINE * knee) else None
