"""`joycap report`: what a job did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_ON_SCREEN = 20  # problems on a terminal


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|JOURNAL...",
            help="Folders of jobs, or journals. Several are parts of one job.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="Everything, as one JSON line.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html",
            envvar="JOYCAP_HTML",
            metavar="FILE",
            help="Write a page with pictures, the worst images first; it needs no other file.",
        ),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures", envvar="JOYCAP_PICTURES", min=0, help="Most images on that page."
        ),
    ] = 200,
) -> None:
    """Show what a job did: counts, glitches by kind and prompt, speed, and what has no caption.

    Tables go to stderr. On stdout is a line for each task without a caption, the worst first: kind,
    image, reason, prompt, requests, with tabs between.

    A folder's journals, of all shards and machines, count together, and so do those of all folders
    that are named: of a task that several have, one with a caption goes before one without, then
    the latest counts.

    Examples:

      joycap report photos/

      joycap report photos/ --html report.html

      joycap report node*/.joycap --json

    Exit codes: 0 shown, 1 a journal cannot be read, 2 there is none.
    """
    import orjson

    from joycap_vllm.cli.running import say
    from joycap_vllm.cli.tables import show_report
    from joycap_vllm.job import line_of, make_report, report_data, write_page

    found = make_report(paths)
    if page is not None:
        write_page(found, page, title=f"joycap report: {paths[0]}", pictures=pictures)
    if as_json:
        typer.echo(orjson.dumps(report_data(found)).decode())
    else:
        show_report(found)
        short = sys.stdout.isatty()
        for number, problem in enumerate(found.problems()):
            if short and number == _ON_SCREEN:
                say(f"the others: joycap report {paths[0]} | less")
                break
            typer.echo(line_of(problem))
    if page is not None:
        say(f"written: {page}")
