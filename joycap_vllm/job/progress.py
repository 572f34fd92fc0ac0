"""What a job has done so far, and its summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from joycap_vllm.captioner import Outcome
from joycap_vllm.fleet import Usage
from joycap_vllm.job.crew import Seen
from joycap_vllm.job.figures import Figures
from joycap_vllm.job.pace import Pace
from joycap_vllm.job.problems import Problems

_LONG = 10.0  # seconds of waiting after which the speed until then tells nothing


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
    """Counts as they grow, and what they say about the rest.

    `total` is the number of tasks of the run: None until anything is known about it, and about so
    many while `counting`. `standing` is how many of them need nothing, as far as that is known
    before they are met: the time left is that of the others. `queue` are the requests that run and
    wait at the servers, where those say; `limit` and `hedged` are as in `Figures`; `endpoints` are
    those that work.

    Args:
        clock: Seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total: int | None = None
        self.counting = False
        self.standing = 0
        self.images = 0
        self.counts: Counter[str] = Counter()
        self.glitches: Counter[str] = Counter()
        self.requests = 0
        self.retried = 0
        self.tokens = Usage()
        self.in_flight = 0
        self.capacity = 0
        self.queue: tuple[int, int] | None = None
        self.limit = ""
        self.hedged = 0
        self.endpoints: tuple[Seen, ...] = ()
        self._waiting_for = ""
        self._waiting_since = 0.0
        self.unwritten = 0
        self.problems = Problems()
        self._clock = clock
        self._started = clock()
        self._earlier = 0
        self._pace = Pace(3)  # tasks, images, completion tokens

    def start(self) -> None:
        """The servers are ready: from here on time counts."""
        self._started = self._clock()

    @property
    def waiting_for(self) -> str:
        """What has to happen before work goes on; empty while it does."""
        return self._waiting_for

    @waiting_for.setter
    def waiting_for(self, what: str) -> None:
        if what != self._waiting_for:
            self._waiting_for, self._waiting_since = what, self._clock()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def done(self) -> int:
        """Tasks that have ended."""
        return self.counts.total()

    @property
    def rate(self) -> float:
        """Tasks of this run that ended a second, of late."""
        return self._pace.rates(self._clock())[0]

    @property
    def eta(self) -> float | None:
        """Seconds that the rest takes at the present rate; None where nobody can tell."""
        if self.total is None:
            return None
        to_be_met = max(self.standing - self._earlier, 0)
        left = max(self.total - self.done - to_be_met, 0)
        if not left:
            return None if self.counting else 0.0
        if self._waiting_for and self._clock() - self._waiting_since > _LONG:
            return None  # the rate only falls, and tells nothing of what comes after
        rate = self.rate
        return left / rate if rate and self._pace.settled(self._clock()) else None

    def add(self, outcome: Outcome) -> None:
        """A task ended in this run."""
        self.counts[outcome.outcome] += 1
        self.requests += len(outcome.attempts)
        self.retried += len(outcome.attempts) > 1
        self.glitches.update(a.glitch for a in outcome.attempts if a.glitch is not None)
        self.tokens += outcome.usage
        now = self._clock()
        took = sum(attempt.milliseconds for attempt in outcome.attempts) / 1000
        began = max(now - took, min(self._started, now))
        self._pace.add(now, began, 1, 0, outcome.usage.completion)

    def add_image(self) -> None:
        """An image was asked about in this run, and is through."""
        self.images += 1
        now = self._clock()
        self._pace.add(now, now, 0, 1, 0)

    def add_earlier(self, outcome: str, count: int = 1, *, images: int = 0) -> None:
        """Tasks that needed nothing in this run: captioned before, or ended for good before.

        Args:
            outcome: How they ended; `ok` counts as skipped.
            count: How many, in one go.
            images: How many images are through with them.
        """
        self.counts["skipped" if outcome == "ok" else outcome] += count
        self._earlier += count
        self.images += images

    def figures(self) -> Figures:
        """All of it at this moment."""
        now, counts = self._clock(), self.counts
        tasks, images, tokens = self._pace.rates(now)
        eta = self.eta
        running, waiting = self.queue or (None, None)
        return Figures(
            images=self.images,
            done=self.done,
            ok=counts["ok"],
            skipped=counts["skipped"],
            glitched=counts["glitched"],
            failed=counts["failed"],
            total=None if self.total is None else max(self.total, self.done),
            counting=self.counting,
            requests=self.requests,
            retried=self.retried,
            hedged=self.hedged,
            unwritten=self.unwritten,
            glitches=dict(sorted(self.glitches.items())),
            tokens=asdict(self.tokens),
            tasks_per_second=round(tasks, 3),
            images_per_second=round(images, 3),
            tokens_per_second=round(tokens, 1),
            eta_seconds=None if eta is None else round(eta, 1),
            quiet_seconds=round(self._pace.quiet(now, self._started), 1),
            seconds=round(self.seconds, 1),
            in_flight=self.in_flight,
            capacity=self.capacity,
            running=running,
            waiting=waiting,
            limit=self.limit,
            waiting_for=self.waiting_for,
            waiting_seconds=round(now - self._waiting_since, 1) if self.waiting_for else 0.0,
        )

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
