"""`joycap caption`: images in, captions beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from joycap_vllm.cli import completing
from joycap_vllm.cli.answers import (
    AlwaysFirst,
    DedupeTags,
    MaxGlitchRate,
    StripLeadIn,
    TagSeparator,
    Underscores,
    Undesired,
)
from joycap_vllm.cli.flags import (
    ASK,
    HOW,
    OUT,
    WHICH,
    AcceptChanges,
    AllowPrivateUrls,
    ApiKeyFile,
    AsJson,
    BaseUrls,
    Check,
    Concurrency,
    Endpoints,
    MaxPixels,
    Model,
    Patience,
    RecipeFlag,
    Retries,
    Serve,
    Timeout,
    UrlTimeout,
    Wire,
)
from joycap_vllm.cli.options import CaptionFlags
from joycap_vllm.cli.raying import Ray, RayWorkers
from joycap_vllm.cli.talk import LogFormat, MetricsPort

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Folders (recursive), image files, globs, .txt lists, .jsonl or .parquet manifests "
        "(columns path, url or image), WebDataset shards ({000..099}.tar), hf:// datasets, and "
        "s3:// or other URLs of these.",
        show_default=False,
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        autocompletion=completing.caption_types,
        envvar="JOYCAP_TYPE",
        rich_help_panel=ASK,
        help="Caption type; several make several captions. `joycap prompts` lists them. "
        "(default: descriptive)",
    ),
]
Length = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_LENGTH",
        autocompletion=completing.lengths,
        rich_help_panel=ASK,
        help='any, "very short", short, medium-length, long, "very long".',
    ),
]
Words = Annotated[
    int | None,
    typer.Option(envvar="JOYCAP_WORDS", rich_help_panel=ASK, help="Word limit."),
]
Extras = Annotated[
    list[str] | None,
    typer.Option(
        "--extra",
        envvar="JOYCAP_EXTRA",
        autocompletion=completing.extra_options,
        rich_help_panel=ASK,
        help="Extra option by short name, by number 1 to 27, or in your own words "
        "(in the environment: names or numbers, with spaces between).",
    ),
]
Name = Annotated[str, typer.Option(envvar="JOYCAP_NAME", rich_help_panel=ASK, help="Fills {name}.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_PROMPT",
        rich_help_panel=ASK,
        help="Your own prompt; {stem}, {directory}, {caption}, {tags} and a row's columns by their "
        "names are filled in.",
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        envvar="JOYCAP_PROMPT_FILE",
        rich_help_panel=ASK,
        help='Your own prompt from a file: plain text, or JSON [{"prompt", "weight"}, ...].',
    ),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_SYSTEM_PROMPT",
        rich_help_panel=ASK,
        help="(default: You are a helpful image captioner.)",
    ),
]
Dual = Annotated[
    bool,
    typer.Option(
        "--dual",
        envvar="JOYCAP_DUAL",
        rich_help_panel=ASK,
        help="Booru-like tags on line 1, prose on line 2, as dual_caption does.",
    ),
]
DualSplit = Annotated[
    bool,
    typer.Option(
        "--dual-split", envvar="JOYCAP_DUAL_SPLIT", rich_help_panel=ASK, help="In two files."
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_TEMPERATURE", rich_help_panel=HOW, min=0, max=5, help="0 is greedy."
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_TOP_P", rich_help_panel=HOW, min=0.01, max=1, help="Nucleus share."
    ),
]
TopK = Annotated[
    int, typer.Option(envvar="JOYCAP_TOP_K", rich_help_panel=HOW, min=0, help="0 is off.")
]
MaxTokens = Annotated[
    int,
    typer.Option(
        envvar="JOYCAP_MAX_TOKENS",
        rich_help_panel=HOW,
        min=1,
        help="Longest answer, in tokens.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(envvar="JOYCAP_SEED", rich_help_panel=HOW, help="(default: one for each image)"),
]
OnGlitch = Annotated[
    Literal["skip", "keep"],
    typer.Option(
        envvar="JOYCAP_ON_GLITCH",
        rich_help_panel=OUT,
        help="When attempts are used up: write nothing, or the best text, trimmed if that helps.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        envvar="JOYCAP_OUT",
        rich_help_panel=OUT,
        help="txt: folder of a mirrored tree (default: beside each image). Else a file, or a "
        "folder (default: captions.jsonl and so on, in the folder of the images).",
        show_default=False,
    ),
]
Form = Annotated[
    Literal["txt", "jsonl", "parquet", "tar", "kohya", "imagefolder", "finetune"],
    typer.Option(
        "--format",
        envvar="JOYCAP_FORMAT",
        rich_help_panel=OUT,
        help="txt: sidecars, as the job goes. The others are written at its end, and again by "
        "`joycap export` at any time, which tells more of each.",
    ),
]
Ext = Annotated[
    str,
    typer.Option(envvar="JOYCAP_EXT", rich_help_panel=OUT, help="Sidecars' extension."),
]
Prefix = Annotated[
    str, typer.Option(envvar="JOYCAP_PREFIX", rich_help_panel=OUT, help="Put before captions.")
]
Suffix = Annotated[
    str, typer.Option(envvar="JOYCAP_SUFFIX", rich_help_panel=OUT, help="Put after captions.")
]
Trigger = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_TRIGGER",
        rich_help_panel=OUT,
        help="Trigger word, put first where it is missing.",
    ),
]
Existing = Annotated[
    Literal["skip", "overwrite", "append", "prepend"],
    typer.Option(
        envvar="JOYCAP_EXISTING",
        rich_help_panel=OUT,
        help="What a sidecar means that is there and not empty.",
    ),
]
Journal = Annotated[
    Path | None,
    typer.Option(
        envvar="JOYCAP_JOURNAL",
        rich_help_panel=OUT,
        help="Folder of the journal. (default: .joycap in the input or --out folder)",
    ),
]
Again = Annotated[
    list[str] | None,
    typer.Option(
        envvar="JOYCAP_AGAIN",
        autocompletion=completing.endings_or_all,
        rich_help_panel=OUT,
        help="Ask again what ended so: glitched, failed, a kind of glitch, or all, good captions "
        "too, as for another model. Sidecars that you changed stay.",
    ),
]
Shard = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_SHARD",
        autocompletion=completing.shards,
        rich_help_panel=WHICH,
        metavar="I/N",
        help="This machine's part, by hash of the image's key.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(envvar="JOYCAP_LIMIT", rich_help_panel=WHICH, min=1, help="The first N images."),
]
Sample = Annotated[
    int | None,
    typer.Option(envvar="JOYCAP_SAMPLE", rich_help_panel=WHICH, min=1, help="Any N images."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        envvar="JOYCAP_DRY_RUN",
        rich_help_panel=WHICH,
        help="Show the prompts, the first images and the plan; ask nothing.",
    ),
]


def caption(
    inputs: Inputs,
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
    base_urls: BaseUrls = None,
    endpoints: Endpoints = None,
    serve: Serve = None,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    model: Model = None,
    api_key_file: ApiKeyFile = None,
    concurrency: Concurrency = "auto",
    timeout: Timeout = 300.0,
    patience: Patience = 300.0,
    check: Check = True,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    retries: Retries = 4,
    max_glitch_rate: MaxGlitchRate = "0.3",
    on_glitch: OnGlitch = "skip",
    out: Out = None,
    form: Form = "txt",
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
    allow_private_urls: AllowPrivateUrls = False,
    url_timeout: UrlTimeout = 30.0,
    wire: Wire = "auto",
    recipe: RecipeFlag = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log_format: LogFormat = "text",
    metrics_port: MetricsPort = None,
) -> None:
    """Caption images, each answer judged, glitches asked again, nothing lost.

    Run the same command again after any stop: it goes on where it was.

    Examples:

      joycap caption photos/ --type straightforward

      joycap caption photos/ --dual --base-url http://gpu1:8000/v1 --base-url http://gpu2:8000/v1

      joycap caption --serve nano photos/

      joycap caption rows.jsonl --prompt "Describe {subject}." --format parquet --out caps.parquet

      joycap caption "shards/{000..099}.tar" --format tar --out captioned/

      joycap caption /nfs/photos --ray auto --base-url http://gpu1:8000/v1

    Exit codes: 0 every task is ok, 1 some are glitched or failed, 2 wrong usage, 3 no endpoint,
    4 other settings than the journal's, 5 the server of --serve keeps dying, 130 interrupted.
    """
    from joycap_vllm.cli.running import run_caption

    flags = CaptionFlags(**{k: v for k, v in locals().items() if k != "run_caption"})
    raise typer.Exit(run_caption(flags))
