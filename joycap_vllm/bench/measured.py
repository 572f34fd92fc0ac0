"""One level's figures, from the answers that came and what was sampled meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from joycap_vllm.fleet import Usage


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and how it ended.

    Args:
        began: When it was sent, in seconds of any clock.
        ended: When its answer was there, by the same clock.
        glitch: Whether the answer was judged to be no caption.
        failed: Why there was no answer; empty where there was one.
        usage: Its tokens.
    """

    began: float
    ended: float
    glitch: bool
    failed: str
    usage: Usage

    def part_within(self, opened: float, closed: float) -> float:
        """The part of its time, 0 to 1, that lies between two moments."""
        if self.ended <= self.began:
            return float(opened <= self.ended < closed)
        overlap = min(self.ended, closed) - max(self.began, opened)
        return max(0.0, overlap / (self.ended - self.began))


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the client and the servers: requests in flight by our count; running and waiting
    by the servers' own, None where they do not say; whether a server refused more."""

    in_flight: int
    running: float | None = None
    waiting: float | None = None
    full: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is measured.

    Args:
        opened: Its begin, in seconds.
        closed: Its end.
        cpu: Seconds of CPU that this process used in it, all threads together.
        loop: Seconds of CPU that the thread of the event loop used in it.
        cores: Cores that this process may use.
    """

    opened: float
    closed: float
    cpu: float
    loop: float
    cores: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.closed - self.opened


@dataclass(frozen=True, slots=True)
class Measured:
    """What one level came to.

    Args:
        level: Requests in flight that were asked for; None: as many as `auto` chose.
        seconds: Length of the measured time.
        answers: Answers in it; at a fixed level one that lies in it with a part of its time counts
            as that part.
        answers_per_second: Answers of any kind.
        captions_per_second: Answers that were judged to be captions.
        prompt_tokens_per_second: Tokens read, those from the cache too.
        completion_tokens_per_second: Tokens written.
        cached_share: Part of the prompt tokens that the cache served.
        glitch_rate: Part of the answers that are no caption.
        latency: Seconds from sending a request to its answer, median.
        latency_95: The same, for 95 of 100.
        in_flight: Requests in flight on average.
        running: Of them by the servers' own count at work; None where they do not say.
        waiting: Of them queued, likewise.
        full: Part of the time in which a server refused more.
        client_cores: Cores that this process kept busy.
        loop_share: Part of the time that the event loop's thread, of which there is one, computed.
        cores: Cores that this process may use.
        failed: Requests without an answer.
        why: The first of their reasons.
    """

    level: int | None
    seconds: float
    answers: float
    answers_per_second: float
    captions_per_second: float
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    cached_share: float
    glitch_rate: float
    latency: float
    latency_95: float
    in_flight: float
    running: float | None
    waiting: float | None
    full: float
    client_cores: float
    loop_share: float
    cores: int
    failed: int = 0
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data, rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measured(
    level: int | None, span: Span, answered: Sequence[Answered], samples: Sequence[Sample]
) -> Measured:
    """The figures of one level.

    Args:
        level: Requests in flight that were asked for.
        span: The time that counts.
        answered: All requests that may have been in flight in it, each with its end.
        samples: Looks taken in it.
    """
    shares = [(one, _share(one, span, steady=level is not None)) for one in answered]
    inside = [(one, part) for one, part in shares if part > 0]
    good = [(one, part) for one, part in inside if not one.failed]
    answers = sum(part for _, part in good)
    glitches = sum(part for one, part in good if one.glitch)
    prompt, cached, completion = (
        sum(getattr(one.usage, name) * part for one, part in good)
        for name in ("prompt", "cached", "completion")
    )
    failures = [one.failed for one, _ in inside if one.failed]
    seconds = max(span.seconds, 1e-9)
    # Those that began before the span began waited for what was there before it.
    times = sorted(one.ended - one.began for one, _ in good if one.began >= span.opened)
    times = times or sorted(one.ended - one.began for one, _ in good)
    return Measured(
        level=level,
        seconds=span.seconds,
        answers=answers,
        answers_per_second=answers / seconds,
        captions_per_second=(answers - glitches) / seconds,
        prompt_tokens_per_second=prompt / seconds,
        completion_tokens_per_second=completion / seconds,
        cached_share=cached / prompt if prompt else 0.0,
        glitch_rate=glitches / answers if answers else 0.0,
        latency=_quantile(times, 0.5),
        latency_95=_quantile(times, 0.95),
        in_flight=_mean([s.in_flight for s in samples]) or 0.0,
        running=_mean([s.running for s in samples if s.running is not None]),
        waiting=_mean([s.waiting for s in samples if s.waiting is not None]),
        full=_mean([s.full for s in samples]) or 0.0,
        client_cores=span.cpu / seconds,
        loop_share=span.loop / seconds,
        cores=span.cores,
        failed=len(failures),
        why=failures[0] if failures else "",
    )


def _share(one: Answered, span: Span, *, steady: bool) -> float:
    """How much of an answer belongs to the span: where as many are in flight all the time, the part
    of its time, so that bursts do not matter; else that would count what only piles up."""
    if steady:
        return one.part_within(span.opened, span.closed)
    return float(span.opened <= one.ended < span.closed)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
