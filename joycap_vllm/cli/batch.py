"""`joycap batch`: requests and results as files, for OpenAI's Batch API and `vllm run-batch`."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from joycap_vllm.cli.answers import (
    AlwaysFirst,
    DedupeTags,
    StripLeadIn,
    TagSeparator,
    Underscores,
    Undesired,
)
from joycap_vllm.cli.caption import (
    Again,
    Dual,
    DualSplit,
    Existing,
    Ext,
    Extras,
    Inputs,
    Journal,
    Length,
    Limit,
    MaxTokens,
    Name,
    OnGlitch,
    Prefix,
    Prompt,
    PromptFile,
    Sample,
    Seed,
    Shard,
    Suffix,
    SystemPrompt,
    Temperature,
    TopK,
    TopP,
    Trigger,
    Types,
    Words,
    caption,
)
from joycap_vllm.cli.flags import HOW, OUT, WHERE, AcceptChanges, MaxPixels, RecipeFlag
from joycap_vllm.cli.teaching import help_of

if TYPE_CHECKING:
    from joycap_vllm.job import JobSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Caption without a server at hand: write the requests to files, let OpenAI's Batch API or "
    "`vllm run-batch` answer them, and take the results into the job.",
)
Model = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_MODEL",
        rich_help_panel=WHERE,
        help="The model's name, as whoever answers knows it.",
    ),
]
Engine = Annotated[
    Literal["openai", "vllm"],
    typer.Option(
        envvar="JOYCAP_ENGINE",
        rich_help_panel=WHERE,
        help="vllm adds what only vLLM (0.17 or newer) takes: top_k, and its cut of loops.",
    ),
]
Requests = Annotated[
    Path,
    typer.Option(
        "--out",
        envvar="JOYCAP_OUT",
        rich_help_panel=OUT,
        help="The file of requests; where 50,000 requests or 190 MB are not enough, NAME-000.jsonl "
        "and on.",
    ),
]
Captions = Annotated[
    Path | None,
    typer.Option(
        "--captions-out",
        envvar="JOYCAP_CAPTIONS_OUT",
        rich_help_panel=OUT,
        help="Folder of the captions' mirrored tree, the --out of `joycap caption`. "
        "(default: beside each image)",
    ),
]
BatchWire = Annotated[
    Literal["jpeg", "png"],
    typer.Option(
        envvar="JOYCAP_WIRE",
        rich_help_panel=HOW,
        help="How 384x384 pictures travel: jpeg is quality 95 4:4:4, png loses nothing.",
    ),
]


def export_requests(
    inputs: Inputs,
    model: Model,
    out: Requests = Path("requests.jsonl"),
    engine: Engine = "openai",
    types: Types = None,
    length: Length = "any",
    words: Words = None,
    extras: Extras = None,
    name: Name = "",
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    system_prompt: SystemPrompt = None,
    dual: Dual = False,
    dual_split: DualSplit = False,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    on_glitch: OnGlitch = "skip",
    captions_out: Captions = None,
    ext: Ext = ".txt",
    prefix: Prefix = "",
    suffix: Suffix = "",
    trigger: Trigger = "",
    underscores: Underscores = "keep",
    tag_separator: TagSeparator = None,
    always_first: AlwaysFirst = None,
    undesired: Undesired = None,
    dedupe_tags: DedupeTags = False,
    strip_lead_in: StripLeadIn = False,
    existing: Existing = "skip",
    journal: Journal = None,
    again: Again = None,
    accept_changes: AcceptChanges = False,
    shard: Shard = "1/1",
    limit: Limit = None,
    sample: Sample = None,
    max_pixels: MaxPixels = 178_956_970,
    wire: BatchWire = "jpeg",
    recipe: RecipeFlag = None,
) -> None:
    """Write a request for every caption that is still to be asked; nothing is sent.

    The requests are those that `joycap caption` with the same flags would send. What the job has
    captioned is left out; what was glitched is not, with --again glitched.

    Examples:

      joycap batch export photos/ --model joycaption --type straightforward --out requests.jsonl

      vllm run-batch -i requests.jsonl -o results.jsonl --model PATH --served-model-name joycaption

      joycap batch import results.jsonl photos/

    Exit codes: 0 all images are in it, 1 some cannot be used, 2 wrong usage, 4 other settings than
    the journal's.
    """
    given = {k: v for k, v in locals().items() if k not in ("out", "engine", "captions_out")}
    from joycap_vllm.cli.options import CaptionFlags, settings_of

    plain = {n: p.default for n, p in inspect.signature(caption).parameters.items()}
    flags: Any = {**plain, **given, "out": captions_out}
    settings = settings_of(CaptionFlags(**flags))
    raise typer.Exit(asyncio.run(_export(settings, out.absolute(), model, vllm=engine == "vllm")))


def import_results(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS... DIR",
            help="Files of results or errors, as they came, and the job's folder.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="The counts as JSON on stdout.")
    ] = False,
) -> None:
    """Take the results of a batch into the job: each is judged, recorded, and written as a sidecar.

    What is glitched or got no answer is asked by the next `joycap retry DIR` or `joycap caption`,
    or by another batch. Results may be imported again: what is recorded stays.

    Example:

      joycap batch import results-*.jsonl errors.jsonl photos/

    Exit codes: 0 every result is a caption, 1 some are not, 2 wrong usage.
    """
    from joycap_vllm.errors import UsageError

    if len(paths) < 2:
        raise UsageError("give files of results, and the job's folder behind them")
    raise typer.Exit(asyncio.run(_import(paths[:-1], paths[-1], as_json=as_json)))


async def _export(settings: JobSettings, out: Path, model: str, *, vllm: bool) -> int:
    from joycap_vllm.cli.talk import say
    from joycap_vllm.job import Journal, Plan, check_settings, export_batch, read_records

    async with Journal(settings.state) as journal:
        check_settings(settings)
        plan = Plan(settings, read_records(settings.state))
        batch = await export_batch(plan, journal, out, model=model, vllm=vllm)
    for file in batch.files:
        typer.echo(bytes(file))
    say(f"{batch.requests} requests written to {len(batch.files)} files")
    if batch.failed:
        say(f"left out: {batch.failed}, images that cannot be used (joycap report tells why)")
    return 1 if batch.failed else 0


async def _import(results: list[Path], folder: Path, *, as_json: bool) -> int:
    import orjson

    from joycap_vllm.cli.talk import say
    from joycap_vllm.errors import UsageError
    from joycap_vllm.job import (
        Journal,
        export_job,
        import_batch,
        job_folder,
        load_job,
        read_records,
    )

    job = load_job(job_folder(folder))
    async with Journal(job.state) as journal:
        imported = await import_batch(job, read_records(job.state), journal, results)
    for problem in imported.problems:
        say(problem)
    say(", ".join(f"{count} {what}" for what, count in imported.outcomes.items()) or "no results")
    try:
        complete = export_job(job, "txt", say=say).complete
    except UsageError as error:
        complete = False
        say(f"the captions are recorded, but no sidecars are written: {error}")
    if as_json:
        typer.echo(orjson.dumps({**imported.outcomes, "glitches": imported.glitches}).decode())
    return 0 if complete and imported.complete else 1


app.command("export", help=help_of("batch export", export_requests))(export_requests)
app.command("import", help=help_of("batch import", import_results))(import_results)
