"""`joycap report`: what a job did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR|JOURNAL...", help="Folders of jobs, or journals.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="As one JSON line.")
    ] = False,
) -> None:
    """Show a job's counts, its glitches by kind, and why tasks have no caption."""
    import orjson

    from joycap_vllm.cli.running import say
    from joycap_vllm.job import make_report

    found = make_report(paths)
    seconds = found.ended - found.began
    if as_json:
        data = {
            "outcomes": dict(found.outcomes),
            "glitches": dict(found.glitches),
            "prompts": dict(found.prompts),
            "requests": found.requests,
            "seconds": round(seconds, 3),
            "problems": [{"key": k, "kind": g, "why": w} for k, g, w in found.problems],
        }
        typer.echo(orjson.dumps(data).decode())
        return
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.outcomes.items()))
    say(f"{found.outcomes.total()} tasks: {counts}; {found.requests} requests")
    if found.glitches:
        kinds = ", ".join(f"{kind} {n}" for kind, n in found.glitches.most_common())
        say(f"rejected answers: {kinds}")
    for key, kind, why in found.problems:
        typer.echo(f"{kind}\t{key!r}\t{why}")
