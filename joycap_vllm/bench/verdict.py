"""Which of client, front end and engine is the limit, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from joycap_vllm.bench.measured import Measured
from joycap_vllm.fleet import ADVICE

Bottleneck = Literal["client", "front end", "engine", "server", "concurrency"]

_BUSY = 0.85  # of all cores, or of the event loop's one, that leave no room for more
_FILLED = 0.85  # of the level that has to be in flight on average
_FULL = 0.05  # of the time with refusals that tell of a full server
_LOST = 0.25  # of those in flight that neither run nor wait
_QUEUED = 0.10  # of those in flight that wait: the engine has more than it can take

_HELP = {
    **ADVICE,
    "server": "the server does not show vLLM's /metrics, so its front end and its engine cannot be "
    "told apart",
    "concurrency": "more requests in flight would bring more: give higher --levels, or leave them "
    "out",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What limits, by which evidence, and what to do about it."""

    limit: Bottleneck
    why: str
    advice: str


def find_limit(knee: Measured, *, flat: bool) -> Finding:
    """The limit of a level.

    Args:
        knee: The level's figures.
        flat: Whether a higher level brought no more.
    """
    limit, why = _sorted(knee, flat)
    return Finding(limit, why, _HELP[limit])


def _sorted(m: Measured, flat: bool) -> tuple[Bottleneck, str]:
    if m.client_cores >= _BUSY * m.cores:
        return "client", f"this process keeps {m.client_cores:.1f} of {m.cores} cores busy"
    if m.loop_share >= _BUSY:
        return "client", f"its event loop, one thread, is busy {m.loop_share:.0%} of the time"
    if m.full >= _FULL:
        return "engine", f"it refused more requests {m.full:.0%} of the time"
    if m.level is not None and m.in_flight < _FILLED * m.level:
        told = f"only {m.in_flight:.0f} of {m.level} requests were in flight"
        return "client", f"{told}: pictures are not prepared as fast as they are captioned"
    if m.running is None or m.waiting is None:
        return ("server", "the client has room") if flat else ("concurrency", _rising(m))
    if m.waiting > _QUEUED * m.in_flight:
        return "engine", f"{m.running:.0f} requests run and {m.waiting:.0f} wait for them"
    lost = m.in_flight - m.running - m.waiting
    if lost > _LOST * m.in_flight and flat:
        return "front end", (
            f"of {m.in_flight:.0f} requests in flight {m.running:.0f} run and {m.waiting:.0f} "
            f"wait; the other {lost:.0f} are still being read, or written out"
        )
    if not flat:
        return "concurrency", _rising(m)
    return "engine", f"{m.running:.0f} requests run, and more in flight bring no more captions"


def _rising(m: Measured) -> str:
    return f"nothing was full with {m.in_flight:.0f} requests in flight"
