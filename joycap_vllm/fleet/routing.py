"""Which endpoints an image prefers, in which order: weighted rendezvous hashing, pure.

An image's key falls into one of a few thousand slots, and each slot ranks the endpoints by a hash
of both. Who joins or leaves moves only the slots that it wins or held. A ranking is made when a
slot is first asked for and kept until the endpoints or their weights change.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Mapping
from hashlib import blake2b
from statistics import median

SLOTS = 4096
DEPTH = 4  # endpoints that a slot names; behind them any is as good as another
_SLACK = 1.5  # how far a rate has to be from its weight before the weight follows
_BOUNDS = (1 / 16, 16.0)


def slot_of(home: str) -> int:
    """The slot of an image's key, the same on every machine."""
    digest = blake2b(home.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % SLOTS


class Routing:
    """The order of endpoints for each slot."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._draws: dict[str, array[float]] = {}
        self._orders: list[tuple[str, ...] | None] = [None] * SLOTS

    @property
    def weights(self) -> Mapping[str, float]:
        """Each endpoint's weight: its share of all slots is its share of all weights."""
        return self._weights

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Sets endpoints and their weights, all above zero; who is not named is gone."""
        if dict(weights) == self._weights:
            return
        self._weights = dict(weights)
        self._draws = {name: self._draws.get(name) or _draws(name) for name in weights}
        self._orders = [None] * SLOTS

    def order(self, slot: int) -> tuple[str, ...]:
        """The first endpoints of a slot, its home first; at most `DEPTH`, empty without any."""
        order = self._orders[slot]
        if order is None:
            draws = self._draws
            ranks = [(draws[name][slot] / weight, name) for name, weight in self._weights.items()]
            order = tuple(name for _, name in heapq.nsmallest(DEPTH, ranks))
            self._orders[slot] = order
        return order


def weights_for(rates: Mapping[str, float], old: Mapping[str, float]) -> dict[str, float]:
    """Weights that follow completion rates in coarse steps.

    Args:
        rates: Answers per second of each endpoint while all were kept busy; 0 where not known.
        old: The weights so far; a weight stays while its rate is near it.
    """
    known = [rate for rate in rates.values() if rate > 0]
    typical = median(known) if known else 0.0
    weights = {}
    for name, rate in rates.items():
        weight = old.get(name, 1.0)
        ratio = min(max(rate / typical, _BOUNDS[0]), _BOUNDS[1]) if rate > 0 else weight
        if not weight / _SLACK <= ratio <= weight * _SLACK:
            weight = 2.0 ** (round(2.0 * math.log2(ratio)) / 2.0)  # coarse: homes rarely change
        weights[name] = weight
    return weights


def _draws(name: str) -> array[float]:
    """An endpoint's draw for each slot, of the exponential distribution: divided by weights, the
    least of several is each one's as often as its weight says."""
    draws = array("d")
    data = name.encode("utf-8", "surrogatepass")
    for block in range(SLOTS // 8):
        digest = blake2b(data, digest_size=64, salt=block.to_bytes(8)).digest()
        for start in range(0, 64, 8):
            uniform = (int.from_bytes(digest[start : start + 8]) + 1) / (2**64 + 1)
            draws.append(-math.log(uniform))
    return draws
