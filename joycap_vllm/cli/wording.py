"""Figures in words, the same in panels, logs and `joycap status`."""

from __future__ import annotations

from collections.abc import Mapping

from joycap_vllm.job import Figures

_DAYS = 48 * 3600  # seconds from which days are easier to read than hours


def clock(seconds: float) -> str:
    """`4.2 s`, `1:02:03` or `3.5 days`."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole >= _DAYS:
        return f"{seconds / 86400:,.1f} days"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def counts(numbers: Mapping[str, int]) -> str:
    """`refusal 3, empty 1`."""
    return ", ".join(f"{kind} {count:,}" for kind, count in numbers.items())


def done(figures: Figures) -> str:
    """`12,345 of about 5,000,000`: never more than the whole."""
    if figures.total is None:
        return f"{figures.done:,}"
    total = max(figures.total, figures.done)
    if figures.counting:
        rough = _rough(total)
        return f"{figures.done:,} of about {max(rough, figures.done):,}"
    return f"{figures.done:,} of {total:,}"


def line(figures: Figures) -> str:
    """All that matters at this moment, in one line."""
    share = "" if figures.share is None else f" ({figures.share:.1%})"
    parts = [f"{done(figures)} done{share}"]
    if figures.capacity:
        left = "" if figures.eta_seconds is None else f", {clock(figures.eta_seconds)} left"
        parts[0] += f", {figures.tasks_per_second:.1f}/s{left}"
        parts.append(_speed(figures))
        parts.append(_flight(figures))
    if figures.retried or figures.glitches:
        rejected = f", rejected answers: {counts(figures.glitches)}" if figures.glitches else ""
        parts.append(f"{figures.retried:,} retried{rejected}")
    parts.append(_twice(figures))
    bad = {n: getattr(figures, n) for n in ("glitched", "failed", "unwritten")}
    parts.append(counts({name: count for name, count in bad.items() if count}))
    parts.append(waits(figures))
    return "; ".join(part for part in parts if part)


def rows(figures: Figures) -> list[tuple[str, str]]:
    """The same as names and values."""
    eta = "-" if figures.eta_seconds is None else clock(figures.eta_seconds)
    share = "" if figures.share is None else f" ({figures.share:.1%})"
    endings = counts({n: getattr(figures, n) for n in ("ok", "skipped", "glitched", "failed")})
    return [
        ("done", f"{done(figures)}{share}"),
        ("left", eta),
        ("captions", f"{figures.tasks_per_second:.1f}/s"),
        ("speed", _speed(figures) or "-"),
        ("requests", _flight(figures)),
        ("retried", "; ".join(filter(None, (f"{figures.retried:,}", _twice(figures))))),
        ("ended", endings),
        ("rejected answers", counts(figures.glitches) or "none"),
    ]


def waits(figures: Figures) -> str:
    """What is waited for and since when, or that nothing comes; empty while all is well."""
    if figures.waiting_for:
        since = f" ({clock(figures.waiting_seconds)})" if figures.waiting_seconds >= 1 else ""
        return f"waiting for {figures.waiting_for}{since}"
    if figures.quiet_seconds:
        return f"nothing came for {clock(figures.quiet_seconds)}"
    return ""


def percent(share: float | None) -> str:
    """`87%`; empty where it is unknown."""
    return "" if share is None else f"{share:.0%}"


def _speed(figures: Figures) -> str:
    cached = percent(figures.cached_share)
    parts = [
        f"{figures.images_per_second:.1f} images/s",
        f"{figures.tokens_per_second:,.0f} tokens/s" if figures.tokens.get("completion") else "",
        f"{cached} of the prompts cached" if cached and figures.tokens.get("cached") else "",
    ]
    return ", ".join(part for part in parts if part)


def _flight(figures: Figures) -> str:
    queue = ""
    if figures.running is not None and figures.waiting is not None:
        queue = f" (servers: {figures.running:,} running, {figures.waiting:,} waiting)"
    limit = f", limit: {figures.limit}" if figures.limit else ""
    return f"{figures.in_flight:,} of {figures.capacity:,} in flight{queue}{limit}"


def _twice(figures: Figures) -> str:
    return f"{figures.hedged:,} late requests sent twice" if figures.hedged else ""


def _rough(number: int) -> int:
    """An estimate as people say it: two digits, the rest noughts."""
    return round(number, 2 - len(str(number)))
