"""What holds a fleet back, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from joycap_vllm.fleet.limits import Wait

ADVICE = {
    "front end": "make pictures cheaper to read (--wire bmp or jpeg, not original), or give each "
    "server more processes: joycap serve -- --api-server-count N",
    "client": "give this machine's client more cores, make pictures cheaper to prepare (--recipe "
    "fast, or --wire original), or share the work between machines (--shard I/N on each)",
    "engine": "it is the hardware's limit, which is where you want to be; more GPUs or a smaller "
    "model bring more",
}
_FOUND = {
    "front end": "the servers' front ends are the limit, not their engines: requests pile up "
    "before they run",
    "client": "this machine is the limit, the servers wait for it",
}
_LASTING = 30.0  # seconds


def bottleneck(waits: Iterable[tuple[Wait, int]]) -> Wait:
    """What most of a fleet waits for.

    Args:
        waits: What each endpoint's requests wait for, and its limit.
    """
    shares: Counter[Wait] = Counter()
    for wait, limit in waits:
        shares[wait] += limit
    return max(shares, key=lambda wait: shares[wait], default="")


class Adviser:
    """Says once what helps, when something other than the engines was the limit for long."""

    def __init__(self) -> None:
        self._wait = ""
        self._since = 0.0
        self._told: set[str] = set()

    def look(self, now: float, wait: str) -> str:
        """The advice, at the one moment to give it; else nothing."""
        if wait != self._wait:
            self._wait, self._since = wait, now
        if wait not in _FOUND or wait in self._told or now - self._since < _LASTING:
            return ""
        self._told.add(wait)
        return f"{_FOUND[wait]}; what helps: {ADVICE[wait]}"
