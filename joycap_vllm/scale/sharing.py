"""What several workers are and do together: pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from joycap_vllm.errors import UsageError
from joycap_vllm.job.crew import Load, Seen

_CORES = 2  # for each worker: preparing pictures fills one, and all the rest half of another


def workers_for(cores: float, wanted: int | None, concurrency: int | None) -> int:
    """How many workers a job has: as many as are wanted, or one for each two cores; never more than
    may have a request in flight.

    Raises:
        UsageError: More are wanted than may have a request in flight.
    """
    if wanted is not None and concurrency is not None and wanted > concurrency:
        raise UsageError(
            f"each of {wanted} workers needs at least one request in flight, and {concurrency} are "
            "allowed"
        )
    count = max(1, int(cores / _CORES)) if wanted is None else wanted
    return count if concurrency is None else min(count, concurrency)


def share_of(concurrency: int | None, number: int, count: int) -> int | None:
    """The part of a given concurrency that one of so many workers has, counted from 0; the parts
    add up to all of it."""
    if concurrency is None:
        return None
    return concurrency // count + (number < concurrency % count)


def core_share(cores: float, count: int) -> float:
    """Cores of one of so many workers: at most what it can use."""
    return min(float(_CORES), cores / count)


def joined(loads: Sequence[Load]) -> Load:
    """What all of them do together; of the servers' own counts each tells all."""
    if not loads:
        return Load(state="the workers to start")
    queues = [load.queue for load in loads if load.queue is not None]
    states = [load.state for load in loads]
    limits = Counter(load.limit for load in loads)
    return Load(
        in_flight=sum(load.in_flight for load in loads),
        capacity=sum(load.capacity for load in loads),
        queue=max(queues, key=sum) if queues else None,
        limit=limits.most_common(1)[0][0],
        hedged=sum(load.hedged for load in loads),
        state="; ".join(dict.fromkeys(states)) if all(states) else "",
        down=all(load.down for load in loads),
        endpoints=_endpoints(loads),
    )


def _endpoints(loads: Sequence[Load]) -> tuple[Seen, ...]:
    found: dict[str, Seen] = {}
    for seen in (seen for load in loads for seen in load.endpoints):
        known = found.get(seen.endpoint, Seen(seen.endpoint, 0, 0, False))
        found[seen.endpoint] = Seen(
            seen.endpoint,
            known.in_flight + seen.in_flight,
            known.limit + seen.limit,
            known.up or seen.up,
        )
    return tuple(found.values())


def floored(cores: float) -> float:
    """Cores as Ray takes them: in hundredths, rounded down so that all workers fit."""
    return max(0.01, math.floor(cores * 100) / 100)
