"""`joycap lint`: judges captions that exist already."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from joycap_vllm.cli.answers import MaxGlitchRate
from joycap_vllm.cli.flags import (
    ASK,
    ApiKeyFile,
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
    Wire,
)

Paths = Annotated[
    list[Path] | None, typer.Argument(metavar="PATH...", help="Sidecars, or folders of them.")
]
Jsonl = Annotated[
    list[Path] | None,
    typer.Option(
        envvar="JOYCAP_JSONL",
        help='File of rows {"text", "style", "finish_reason"}; the last two may be missing. '
        "Repeatable; - is standard input.",
    ),
]
StyleFlag = Annotated[
    Literal["auto", "prose", "tags", "mixed"],
    typer.Option(
        envvar="JOYCAP_STYLE",
        help="What captions should look like; auto: what their job asked for, else by their looks.",
    ),
]
Ext = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_EXT", help="Sidecars' extension. (default: that of their job, else .txt)"
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_WORKERS", metavar="auto|N", help="Processes; auto: one for each core."
    ),
]
BadOnly = Annotated[
    bool,
    typer.Option("--bad-only", envvar="JOYCAP_BAD_ONLY", help="Leave out the rows of good ones."),
]
Fix = Annotated[
    bool, typer.Option("--fix", envvar="JOYCAP_FIX", help="Caption bad sidecars again.")
]
AsJson = Annotated[
    bool,
    typer.Option("--json", envvar="JOYCAP_JSON", help="The summary as the last row on stdout."),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        envvar="JOYCAP_TYPE",
        rich_help_panel=ASK,
        help="Caption type, where no job tells what was asked. (default: descriptive)",
    ),
]
Words = Annotated[
    int | None,
    typer.Option(envvar="JOYCAP_WORDS", rich_help_panel=ASK, help="Word limit, likewise."),
]
Prompt = Annotated[
    str | None,
    typer.Option(envvar="JOYCAP_PROMPT", rich_help_panel=ASK, help="Your own prompt, likewise."),
]


def lint(
    paths: Paths = None,
    jsonl: Jsonl = None,
    style: StyleFlag = "auto",
    ext: Ext = None,
    workers: Workers = "auto",
    bad_only: BadOnly = False,
    as_json: AsJson = False,
    fix: Fix = False,
    types: Types = None,
    words: Words = None,
    prompt: Prompt = None,
    base_urls: BaseUrls = None,
    endpoints: Endpoints = None,
    serve: Serve = None,
    model: Model = None,
    api_key_file: ApiKeyFile = None,
    concurrency: Concurrency = "auto",
    timeout: Timeout = 300.0,
    patience: Patience = 300.0,
    check: Check = True,
    retries: Retries = 4,
    max_pixels: MaxPixels = 178_956_970,
    wire: Wire = "auto",
    recipe: RecipeFlag = None,
    max_glitch_rate: MaxGlitchRate = "0.3",
) -> None:
    """Judge captions: one JSON line for each on stdout, in order; the summary on stderr.

    With --fix, bad sidecars are captioned again as their job did; a sidecar is replaced only by
    a caption without a glitch.

    Examples:

      joycap lint photos/ --bad-only

      joycap lint photos/ --fix --base-url http://gpu:8000/v1

      zcat captions.jsonl.gz | joycap lint --jsonl -

    Exit codes: 0 all are ok (with --fix: or are now), 1 some are not, 2 wrong usage; with --fix
    also those of `joycap caption`; 130 interrupted.
    """
    from joycap_vllm.cli.linting import LintFlags, run_lint
    from joycap_vllm.cli.options import AskFlags

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that processes end in order
    ask = AskFlags(
        base_urls=base_urls,
        endpoints=endpoints,
        serve=serve,
        model=model,
        api_key_file=api_key_file,
        concurrency=concurrency,
        timeout=timeout,
        patience=patience,
        check=check,
        retries=retries,
        max_pixels=max_pixels,
        wire=wire,
        recipe=recipe,
        max_glitch_rate=max_glitch_rate,
        accept_changes=False,
        as_json=False,
    )
    flags = LintFlags(
        paths=tuple(paths or ()),
        jsonl=tuple(jsonl or ()),
        style=style,
        ext=ext,
        workers=workers,
        bad_only=bad_only,
        as_json=as_json,
        fix=fix,
        asked={"types": types, "words": words, "prompt": prompt},
        ask=ask,
    )
    raise typer.Exit(run_lint(flags))
