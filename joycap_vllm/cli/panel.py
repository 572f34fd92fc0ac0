"""The live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from joycap_vllm.job import Progress, Summary

_EVERY = 5.0  # seconds between plain lines


class Panel:
    """Shows a job's progress on stderr; call it with the progress."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._live: Live | None = None
        self._last = time.monotonic()
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Panel:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(_frame(progress), refresh=True)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._say(_line(progress))


def _line(progress: Progress) -> str:
    eta = "" if progress.eta is None else f", {_clock(progress.eta)} left"
    waits = f"; waiting for {progress.waiting_for}" if progress.waiting_for else ""
    return (
        f"{progress.done}/{progress.total} done, {progress.rate:.1f}/s{eta}, "
        f"{progress.in_flight} in flight, {progress.retried} retried, "
        f"{progress.glitches.total()} glitches, {progress.counts['failed']} failed{waits}"
    )


def _frame(progress: Progress) -> Frame:
    table = Table.grid(padding=(0, 2))
    eta = "-" if progress.eta is None else _clock(progress.eta)
    table.add_row("done", f"{progress.done} of {progress.total}", "rate", f"{progress.rate:.1f}/s")
    table.add_row("in flight", f"{progress.in_flight} of {progress.capacity}", "left", eta)
    table.add_row(
        "retried", str(progress.retried), "glitches", _counts(dict(progress.glitches)) or "none"
    )
    table.add_row(
        "glitched", str(progress.counts["glitched"]), "failed", str(progress.counts["failed"])
    )
    whole = Table.grid(expand=True)
    whole.add_row(ProgressBar(total=max(progress.total or 0, 1), completed=progress.done))
    whole.add_row(table)
    if progress.waiting_for:
        whole.add_row(Text(f"waiting for {progress.waiting_for}", style="yellow"))
    return Frame(whole, title="joycap caption", border_style="dim")


def sum_up(summary: Summary, progress: Progress, state: Path, say: Callable[[str], None]) -> None:
    """The summary in words."""
    say(
        f"{summary.tasks} captions: {summary.ok} ok, {summary.skipped} skipped, "
        f"{summary.glitched} glitched, {summary.failed} failed "
        f"in {_clock(summary.seconds)} ({summary.captions_per_second:.1f}/s)"
    )
    if summary.glitches:
        say(f"rejected answers: {_counts(summary.glitches)}; {summary.retried} tasks asked again")
    for problem in progress.problems:
        say(f"  {problem}")
    if summary.glitched or summary.failed or progress.unwritten:
        say(f"all of them with their reasons: joycap report {state}")
    if summary.glitched or summary.failed:
        say(f"those alone are asked again by: joycap retry {state}")


def _counts(glitches: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in glitches.items())


def _clock(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
