"""What a job has done so far, and its summary."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

from joycap_vllm.captioner import Outcome
from joycap_vllm.fleet import Usage

_WINDOW = 30.0  # seconds over which the present rate is taken


@dataclass(frozen=True, slots=True)
class Summary:
    """The last word about a run; `ok + skipped + glitched + failed == tasks`, always.

    `retried` counts tasks that took more than one request; `glitches` counts rejected answers.
    """

    images: int
    tasks: int
    ok: int
    skipped: int
    glitched: int
    failed: int
    retried: int
    requests: int
    seconds: float
    captions_per_second: float
    tokens: Usage
    glitches: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain data in the order of the design."""
        return asdict(self)


class Progress:
    """Counts as they grow; `total` is the number of tasks of the run, None until it is known, and
    about so many while `counting`."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.counting = False
        self.images = 0
        self.counts: Counter[str] = Counter()
        self.glitches: Counter[str] = Counter()
        self.requests = 0
        self.retried = 0
        self.tokens = Usage()
        self.in_flight = 0
        self.capacity = 0
        self.waiting_for = ""
        self.unwritten = 0
        self.problems: deque[str] = deque(maxlen=20)
        self._started = time.monotonic()
        self._finished: deque[float] = deque(maxlen=2048)

    def start(self) -> None:
        """The servers are ready: from here on time counts."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def done(self) -> int:
        """Tasks that have ended."""
        return self.counts.total()

    @property
    def rate(self) -> float:
        """Captions a second of late."""
        now = time.monotonic()
        recent = [t for t in self._finished if now - t <= _WINDOW]
        if len(recent) < 2:
            return 0.0
        return len(recent) / max(now - recent[0], 1e-3)

    @property
    def eta(self) -> float | None:
        """Seconds that the rest takes at the present rate."""
        rate = self.rate
        return (self.total - self.done) / rate if rate and self.total is not None else None

    def add(self, outcome: Outcome) -> None:
        """A task ended in this run."""
        self.counts[outcome.outcome] += 1
        self.requests += len(outcome.attempts)
        self.retried += len(outcome.attempts) > 1
        self.glitches.update(a.glitch for a in outcome.attempts if a.glitch is not None)
        self.tokens += outcome.usage
        self._finished.append(time.monotonic())

    def add_earlier(self, outcome: str, count: int = 1) -> None:
        """Tasks that needed nothing in this run: captioned before, or ended for good before."""
        self.counts["skipped" if outcome == "ok" else outcome] += count

    def summary(self) -> Summary:
        """The summary at this moment."""
        asked = self.counts["ok"]
        return Summary(
            images=self.images,
            tasks=self.done,
            ok=self.counts["ok"],
            skipped=self.counts["skipped"],
            glitched=self.counts["glitched"],
            failed=self.counts["failed"],
            retried=self.retried,
            requests=self.requests,
            seconds=round(self.seconds, 3),
            captions_per_second=round(asked / max(self.seconds, 1e-3), 3),
            tokens=self.tokens,
            glitches=dict(sorted(self.glitches.items())),
        )
