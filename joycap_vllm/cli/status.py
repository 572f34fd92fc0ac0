"""`joycap status`: what a job does, from another terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from joycap_vllm.job import Standing, Writer

_EVERY = (1.0, 5.0)  # seconds between two looks: on a terminal, elsewhere
_SILENT = 10.0  # seconds after which a writer that tells nothing is worth a word


def status(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The job's folder (that of --out, where it had one), or a journal."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="Everything, as one JSON line.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", envvar="JOYCAP_WATCH", help="Look again until nobody is at work."),
    ] = False,
) -> None:
    """Show how a job stands: done, speed, time left, who is at work; the job is not disturbed.

    Where nobody is at work, its journals tell what stands. All of it goes to stdout.

    Examples:

      joycap status photos/

      joycap status photos/ --watch --json

    Exit codes: 0 shown, 1 a journal cannot be read, 2 there is no job.
    """
    import orjson

    from joycap_vllm.job import find_state, standing_of

    state = find_state(folder)
    if watch and not as_json and sys.stdout.isatty():
        _watch(state)
        return
    while True:
        found = standing_of(state)
        if as_json:
            # Names of folders may hold bytes that are no Unicode.
            data = found.as_json() | {"state": str(state).encode(errors="replace").decode()}
            typer.echo(orjson.dumps(data).decode())
        else:
            _print("\n".join(_lines(found)))
        if not watch or not found.at_work:
            return
        time.sleep(_EVERY[as_json is False])


def _watch(state: Path) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from joycap_vllm.cli.talk import printable
    from joycap_vllm.job import standing_of

    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        while (found := standing_of(state)).at_work:
            live.update(Text("\n".join(map(printable, _lines(found)))), refresh=True)
            time.sleep(_EVERY[0])
    _print("\n".join(_lines(found)))


def _print(text: str) -> None:
    from joycap_vllm.cli.talk import printable

    shown = "\n".join(map(printable, text.split("\n")))
    typer.echo(shown.encode("utf-8", "backslashreplace").decode())


def _lines(found: Standing) -> list[str]:
    from joycap_vllm.cli.wording import line

    lines = []
    for writer in found.writers:
        lines += _writer(writer)
    if len(found.at_work) > 1:
        lines.append(f"together: {line(found.total)}")
    if found.recorded is not None:
        outcomes = ", ".join(f"{count:,} {name}" for name, count in found.recorded.items())
        tasks = sum(found.recorded.values())
        lines.append(f"nobody is at work; the journals hold {tasks:,} tasks: {outcomes or 'none'}")
        if found.writers and found.writers[0].ended != "done":
            lines.append("what is left is done by the same `joycap caption` command")
        if found.recorded.keys() - {"ok"}:
            lines.append(f"more: joycap report {found.state}")
    return lines


def _writer(writer: Writer) -> list[str]:
    from joycap_vllm.cli.wording import clock, line

    if not writer.host:
        return [f"{writer.name}: starts, or cannot write its status"]
    now = time.time()
    part = f", shard {writer.shard[0]}/{writer.shard[1]}" if writer.shard[1] > 1 else ""
    who = f"{writer.name}: {writer.state}{part}, process {writer.pid} on {writer.host}"
    if writer.at_work:
        lines = [f"{who}, since {_moment(writer.started)} ({clock(now - writer.started)})"]
    else:
        why = f" ({writer.ended})" if writer.ended else ""
        lines = [f"{who}: {_moment(writer.started)} to {_moment(writer.updated)}{why}"]
    lines.append(f"  {line(writer.figures)}")
    if writer.at_work and writer.urls:
        lines.append(f"  at {', '.join(writer.urls)}")
    if writer.at_work and now - writer.updated > _SILENT:
        lines.append(f"  it has told nothing for {clock(now - writer.updated)}: is it stopped?")
    return lines


def _moment(seconds: float) -> str:
    from joycap_vllm.job.timeline import moment

    return moment(seconds)
