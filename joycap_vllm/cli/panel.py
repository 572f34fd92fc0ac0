"""The live panel on a terminal, plain lines elsewhere, JSON where it was asked for."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from joycap_vllm.cli.talk import printable, say, talks_json
from joycap_vllm.cli.wording import clock, counts, line, percent, rows, waits
from joycap_vllm.job import Figures, Problem, Progress, Summary

_LINE_EVERY = 5.0  # seconds between plain lines
_FRAME_EVERY = 0.25  # seconds between frames of the panel
_NARROW = 72  # columns below which names and values stand below each other
_LOW = 12  # rows below which there is one line and no panel
_PROBLEMS = 10  # shown at the end, each with how many are like it


class Panel:
    """Shows a job's progress on stderr; call it with the progress, as often as you like."""

    def __init__(self, progress: Progress) -> None:
        self._live: Live | None = None
        self._due = time.monotonic() + _LINE_EVERY
        if talks_json():
            progress.problems.on_problem = _tell_problem
        elif sys.stderr.isatty():
            console = Console(stderr=True)
            if not console.is_dumb_terminal:
                self._live = Live(
                    console=console, auto_refresh=False, transient=True, redirect_stdout=False
                )
                self._due = 0.0

    def __enter__(self) -> Panel:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        figures = progress.figures()
        if self._live is not None:
            self._due = now + _FRAME_EVERY
            console = self._live.console
            self._live.update(frame(figures, console.width, console.height), refresh=True)
            return
        self._due = now + _LINE_EVERY
        say(line(figures), event="progress", **figures.as_json())


def frame(
    figures: Figures, width: int, height: int, title: str = "joycap caption"
) -> RenderableType:
    """The panel.

    Args:
        figures: What it shows.
        width, height: Columns and rows of the terminal.
        title: Stands on top.
    """
    if height < _LOW:
        short = Text(printable(line(figures)))
        short.truncate(width, overflow="ellipsis")
        return short
    columns = 1 if width < _NARROW else 2
    table = Table.grid(padding=(0, 2))
    cells = [
        (Text(name, style="dim"), Text(printable(value), overflow="fold"))
        for name, value in rows(figures)
    ]
    for at in range(0, len(cells), columns):
        table.add_row(*(part for cell in cells[at : at + columns] for part in cell))
    whole = Table.grid(expand=True)
    if figures.share is not None:
        whole.add_row(ProgressBar(total=1.0, completed=figures.share))
    whole.add_row(table)
    if waits(figures):
        whole.add_row(Text(printable(waits(figures)), style="yellow"))
    return Frame(whole, title=title, border_style="dim")


def sum_up(summary: Summary, progress: Progress, state: Path, tell: Callable[..., None]) -> None:
    """The end of a job: what came of it, what went wrong, and what to do next.

    Args:
        summary: Its counts.
        progress: Its problems.
        state: Where its journal is.
        tell: Takes each line, as `say` does; in JSON there is one.
    """
    incomplete = bool(summary.glitched or summary.failed)
    problems, others = progress.problems.worst(_PROBLEMS)
    folder = shlex.quote(str(state.parent if state.name == ".joycap" else state))
    report, retry = f"joycap report {folder}", f"joycap retry {folder}"
    whole = (
        f"{summary.tasks} captions: {summary.ok} ok, {summary.skipped} skipped, "
        f"{summary.glitched} glitched, {summary.failed} failed "
        f"in {clock(summary.seconds)} ({summary.captions_per_second:.1f}/s)"
    )
    tell(
        whole,
        event="summary",
        level="warning" if incomplete or progress.unwritten else "info",
        **summary.as_json(),
        journal=str(state),
        hedged=progress.hedged,
        unwritten=progress.unwritten,
        problems=[_facts(problem) | {"count": count} for problem, count in problems],
        next=[report, retry] if incomplete else [report],
    )
    if talks_json():
        return
    if summary.requests:
        tell(_effort(summary, progress.hedged))
    if summary.glitches:
        tell(f"rejected answers: {counts(summary.glitches)}; {summary.retried} tasks asked again")
    for problem, count in problems:
        tell(f"  {problem}" + (f" (and {count - 1:,} more like it)" if count > 1 else ""))
    if others:
        tell(f"  and {others:,} others")
    if incomplete or progress.unwritten:
        tell(f"all of them with their reasons: {report}")
    if incomplete:
        tell(f"those alone are asked again by: {retry}")
    tell(f"the journal is in {state}")


def _effort(summary: Summary, hedged: int) -> str:
    tokens = summary.tokens
    rate = tokens.completion / max(summary.seconds, 1e-3)
    cached = percent(min(tokens.cached / tokens.prompt, 1.0) if tokens.prompt else None)
    return (
        f"{summary.requests:,} requests"
        + (f", {hedged:,} of them late and sent twice" if hedged else "")
        + f"; tokens: {tokens.prompt:,} read"
        + (f" ({cached} from the cache)" if tokens.cached else "")
        + f", {tokens.completion:,} written ({rate:,.0f}/s)"
    )


def _tell_problem(problem: Problem) -> None:
    say(str(problem), event="problem", level="warning", **_facts(problem))


def _facts(problem: Problem) -> dict[str, str | None]:
    return {
        "key": problem.key,
        "prompt": problem.prompt or None,
        "outcome": problem.outcome,
        "glitch": problem.glitch,
        "why": problem.why,
    }
