"""`joycap lint`: judges captions that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def lint(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Sidecars, or folders of them.")
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            envvar="JOYCAP_JSONL",
            help='File of rows {"text", "style", "finish_reason"}; the last two may be missing.',
        ),
    ] = None,
    style: Annotated[
        Literal["prose", "tags", "mixed"],
        typer.Option(envvar="JOYCAP_STYLE", help="What sidecars should look like."),
    ] = "prose",
    ext: Annotated[str, typer.Option(envvar="JOYCAP_EXT", help="Sidecars' extension.")] = ".txt",
) -> None:
    """Judge captions: one JSON line for each on stdout, in order; the summary on stderr.

    Exit code 1 if any of them is a glitch.
    """
    import orjson

    from joycap_vllm.cli.running import say
    from joycap_vllm.errors import UsageError
    from joycap_vllm.job.lint import lint_rows, lint_sidecars

    if (jsonl is None) == (not paths):
        raise UsageError("give sidecars or folders, or --jsonl FILE")
    rows = lint_sidecars(paths or [], ext, style) if jsonl is None else lint_rows(jsonl, style)
    bad = total = 0
    for ref, verdict in rows:
        total += 1
        bad += not verdict.ok
        line = {"ok": verdict.ok, "glitch": verdict.glitch, "why": verdict.why, "ref": ref}
        typer.echo(orjson.dumps(line).decode())
    say(f"{total} captions, {bad} glitches")
    raise typer.Exit(1 if bad else 0)
