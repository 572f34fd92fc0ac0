"""A job's figures at one moment: what panels show, logs tell and status files keep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

_COUNTS = (
    "images", "done", "ok", "skipped", "glitched", "failed", "requests", "retried", "hedged",
    "unwritten", "in_flight", "capacity",
)  # fmt: skip
_RATES = ("tasks_per_second", "images_per_second", "tokens_per_second")
_TOKENS = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run has done and is doing.

    Args:
        images: Images that are through.
        done: Tasks that have ended, in this run or before: the sum of the next four.
        ok, skipped, glitched, failed: Those, by how.
        total: Tasks in all, never less than `done`; None where it is unknown.
        counting: Whether `total` is an estimate as yet.
        requests, retried: Requests, and tasks that took more than one.
        hedged: Requests that were late at the end, and sent a second time; they count as one.
        unwritten: Captions whose sidecar could not be written.
        glitches: Rejected answers by kind.
        tokens: Prompt, cached and completion tokens.
        tasks_per_second, images_per_second, tokens_per_second: Of late; tokens are those written,
            and what needed no asking counts in none.
        eta_seconds: What the rest will take at that rate; None where nobody can tell.
        quiet_seconds: How long nothing has come, where that is longer than usual.
        seconds: Seconds of work so far.
        in_flight, capacity: Requests under way, and how many may be.
        running, waiting: Requests that the servers work on and that queue there, where they say.
        limit: What most requests wait for: `engine`, `front end`, `client`; empty if not known.
        waiting_for, waiting_seconds: What has to happen before work goes on, and since when that
            has been so; empty and 0 while it goes on.
    """

    images: int = 0
    done: int = 0
    ok: int = 0
    skipped: int = 0
    glitched: int = 0
    failed: int = 0
    total: int | None = None
    counting: bool = False
    requests: int = 0
    retried: int = 0
    hedged: int = 0
    unwritten: int = 0
    glitches: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    tasks_per_second: float = 0.0
    images_per_second: float = 0.0
    tokens_per_second: float = 0.0
    eta_seconds: float | None = None
    quiet_seconds: float = 0.0
    seconds: float = 0.0
    in_flight: int = 0
    capacity: int = 0
    running: int | None = None
    waiting: int | None = None
    limit: str = ""
    waiting_for: str = ""
    waiting_seconds: float = 0.0

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; below 1 while the total is an estimate."""
        if self.total is None:
            return None
        share = self.done / self.total if self.total else 1.0
        return min(share, 0.999) if self.counting else share

    @property
    def cached_share(self) -> float | None:
        """The part of the prompts' tokens that the servers' cache gave, from 0 to 1."""
        prompt = self.tokens.get("prompt", 0)
        return min(self.tokens.get("cached", 0) / prompt, 1.0) if prompt else None

    def at_rest(self) -> Figures:
        """The same after the work: no speed, nothing under way, nothing to wait for."""
        none = Figures()
        now = (*_RATES, "eta_seconds", "quiet_seconds", "in_flight", "capacity", "running",
               "waiting", "limit", "waiting_for", "waiting_seconds")  # fmt: skip
        return replace(self, **{name: getattr(none, name) for name in now})

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the two shares."""
        return asdict(self) | {"share": self.share, "cached_share": self.cached_share}

    @staticmethod
    def of_json(data: Any) -> Figures:
        """The figures that `as_json` gave; whatever else stands there is left out."""
        given = data if isinstance(data, dict) else {}
        sane = {
            each.name: given[each.name]
            for each in fields(Figures)
            if each.name in given and _fits(each.name, given[each.name])
        }
        figures = Figures(**sane)
        if figures.total is not None and figures.total < figures.done:
            return replace(figures, total=figures.done)
        return figures


def summed(each: Iterable[Figures]) -> Figures:
    """The figures of several runs that share a job: the time left is that of the slowest.

    Of the servers' queues and limits nothing is told where there are several runs: they may share
    servers.
    """
    all_of_them = list(each)
    alone = all_of_them[0] if len(all_of_them) == 1 else Figures()
    totals = [one.total for one in all_of_them]
    left = [one.eta_seconds for one in all_of_them if one.total is None or one.done < one.total]
    adding: dict[str, Any] = {
        name: sum(getattr(one, name) for one in all_of_them) for name in (*_COUNTS, *_RATES)
    }
    return Figures(
        **adding,
        total=None if None in totals else sum(total for total in totals if total is not None),
        counting=any(one.counting for one in all_of_them),
        glitches=dict(sum((Counter(one.glitches) for one in all_of_them), Counter())),
        tokens={name: sum(one.tokens.get(name, 0) for one in all_of_them) for name in _TOKENS},
        eta_seconds=None if None in left else max((s for s in left if s is not None), default=0.0),
        quiet_seconds=min((one.quiet_seconds for one in all_of_them), default=0.0),
        seconds=max((one.seconds for one in all_of_them), default=0.0),
        running=alone.running,
        waiting=alone.waiting,
        limit=alone.limit,
        waiting_seconds=max((one.waiting_seconds for one in all_of_them), default=0.0),
        waiting_for="; ".join(dict.fromkeys(w for w in (o.waiting_for for o in all_of_them) if w)),
    )


def _fits(name: str, value: Any) -> bool:
    """Whether a value read from a file is of its field's kind; it may come from anywhere."""
    if name in ("limit", "waiting_for"):
        return isinstance(value, str)
    if name == "counting":
        return isinstance(value, bool)
    if name in ("glitches", "tokens"):
        return isinstance(value, dict) and all(_is_count(each) for each in value.values())
    if value is None:
        return name in ("total", "eta_seconds", "running", "waiting")
    if name in _COUNTS or name in ("total", "running", "waiting"):
        return _is_count(value)
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 1e12


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 63
