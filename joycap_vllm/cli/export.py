"""`joycap export`: any output of a job, from its journals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from joycap_vllm.job import Exported

Form = Annotated[
    Literal["txt", "jsonl", "parquet", "tar", "kohya", "imagefolder", "finetune"],
    typer.Option(
        "--format",
        envvar="JOYCAP_FORMAT",
        help="txt: sidecars. jsonl, parquet: a row for every image, captioned or not. tar: "
        "WebDataset shards, those that the job read or new ones. kohya: meta.json for sd-scripts. "
        "imagefolder: metadata.jsonl for Hugging Face. finetune: for JoyCaption's own training.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        envvar="JOYCAP_OUT",
        help="A file, or a folder. (default: captions.jsonl, captions.parquet, shards/, meta.json, "
        "metadata.jsonl or finetune.json in the job's folder; for txt, where the job puts them)",
        show_default=False,
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        envvar="JOYCAP_SOURCE",
        metavar="INPUT",
        help="Where the images are, as for `joycap caption`; several add up. Only these are "
        "exported. (default: all of the job; for tar and txt, what its last run read)",
        show_default=False,
    ),
]


def export(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|JOURNAL...",
            help="The job's folder (that of --out, where it had one), or its journal's. Several "
            "are parts of one job.",
        ),
    ],
    form: Form,
    out: Out = None,
    source: Sources = None,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="The summary as JSON on stdout.")
    ] = False,
) -> None:
    """Make any output of a job from its journal; nothing is asked, and nothing is lost.

    An output is written whole or not at all (shards: each of them), and can be made again at any
    time, also while the job runs: it holds what is recorded when it starts. On stdout are the
    names of the files.

    Machines that share a folder keep their journals side by side in it, and DIR takes all of them.
    Journals that machines kept apart (--journal) are named together: of a task that several have,
    one with a caption goes before one without, then the latest counts.

    Examples:

      joycap export photos/ --format jsonl

      joycap export photos/ --format kohya --out train/meta.json

      joycap export out/ --format tar --source "shards/{000..099}.tar" --out captioned/

      joycap export node*/.joycap --format parquet --out all.parquet

    Exit codes: 0 all captions are in it, 1 some are not (an image is gone, or the format cannot
    hold its name) or it cannot be written, 2 wrong usage.
    """
    import orjson

    from joycap_vllm.cli.talk import say
    from joycap_vllm.job import export_gathered, gather
    from joycap_vllm.sources import open_source

    opened = None if not source else open_source(source)
    done = export_gathered(gather(paths), form, out, source=opened, say=say)
    show_exported(done)
    if as_json:
        data = {
            "format": done.form,
            "images": done.images,
            "rows": done.rows,
            "captions": done.captions,
            "left_out": done.left_out,
            "files": [str(file) for file in done.files],
        }
        typer.echo(orjson.dumps(data, default=str).decode())
    else:
        for file in done.files:
            typer.echo(bytes(file))
    raise typer.Exit(0 if done.complete else 1)


def show_exported(done: Exported) -> None:
    """Tells what an export wrote, and what it left out and why."""
    from joycap_vllm.cli.talk import say

    if len(done.files) == 1:
        where = f" to {done.files[0]}"
    else:
        where = f" to {len(done.files)} shards" if done.files else ""
    say(f"{done.rows} images with {done.captions} captions written{where}")
    for why, count in done.left_out.items():
        say(f"left out: {count}, {why}")
