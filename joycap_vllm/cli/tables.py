"""A report on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from joycap_vllm.cli.running import say
from joycap_vllm.job import Report
from joycap_vllm.job.timeline import moment


def show_report(report: Report) -> None:
    """Prints counts and tables on stderr."""
    outcomes = report.outcomes
    counts = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items(), reverse=True))
    tokens = report.tokens
    say(
        f"{outcomes.total()} tasks: {counts or 'none'}; {report.requests} requests; tokens: "
        f"{tokens['prompt']} read ({tokens['cached']} cached), {tokens['completion']} written"
    )
    if report.damaged:
        say(f"{report.damaged} damaged lines of the journal are left out")
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140, highlight=False)
    kinds = [kind for kind, _ in report.glitches.most_common()]
    if kinds:
        rows = (
            (name, c.answers, _part(c.glitches.total(), c.answers), *(c.glitches[k] for k in kinds))
            for name, c in report.prompts.items()
        )
        console.print(_table("bad answers", ("prompt", "answers", "bad", *kinds), rows))
    reasons = [(reason, count) for reason, count in report.reasons.most_common(10) if count]
    if reasons:
        console.print(_table("failures", ("reason", "tasks"), reasons))
    intervals = report.timeline.intervals(12)
    if len(intervals) > 1:
        rows = (
            (moment(i.start), f"{i.captions_per_second:.1f}", i.counts.requests,
             _part(i.counts.glitches, i.counts.answers))
            for i in intervals
        )  # fmt: skip
        console.print(_table("over time", ("from", "captions/s", "requests", "bad"), rows))
    if report.endpoints:
        rows = (
            (url, e.requests, _part(e.glitches, e.requests - e.errors), e.errors,
             _seconds(e.latencies.quantile(0.5)), _seconds(e.latencies.quantile(0.95)))
            for url, e in sorted(report.endpoints.items())
        )  # fmt: skip
        heads = ("endpoint", "requests", "bad", "broken", "half within", "95 % within")
        console.print(_table("endpoints", heads, rows))


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    return table


def _shown(value: object) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def _part(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of > 0 else "-"


def _seconds(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s"
