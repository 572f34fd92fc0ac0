"""`joycap bench`: how fast a server is with the real client, and what limits it."""

from __future__ import annotations

from typing import Annotated

import typer

from joycap_vllm.cli import completing
from joycap_vllm.cli.flags import (
    ASK,
    HOW,
    WHERE,
    WHICH,
    AllowPrivateUrls,
    ApiKeyFile,
    BaseUrls,
    Check,
    MaxPixels,
    Model,
    RecipeFlag,
    Serve,
    Timeout,
    UrlTimeout,
    Wire,
)

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT...",
        help="Images as `joycap caption` takes them. (default: drawn ones, no two the same)",
        show_default=False,
    ),
]
Type = Annotated[
    str,
    typer.Option(
        "--type",
        envvar="JOYCAP_TYPE",
        autocompletion=completing.caption_types,
        rich_help_panel=ASK,
        help="Caption type.",
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(
        envvar="JOYCAP_MAX_TOKENS", rich_help_panel=HOW, min=1, help="Longest answer, in tokens."
    ),
]
Concurrency = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_CONCURRENCY",
        rich_help_panel=WHERE,
        metavar="auto|N",
        help="auto finds the knee; N measures only that many requests in flight.",
    ),
]
Levels = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_LEVELS",
        rich_help_panel=WHERE,
        metavar="N,N,...",
        help="Measure just these numbers of requests in flight.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_SECONDS",
        rich_help_panel=WHERE,
        min=0.1,
        help="Measured time of each level; filling it comes before, the last answers after.",
    ),
]
Pictures = Annotated[
    int,
    typer.Option(
        envvar="JOYCAP_PICTURES",
        rich_help_panel=WHICH,
        min=1,
        help="The first N images of the input, again and again.",
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare-vllm-bench",
        envvar="JOYCAP_COMPARE_VLLM_BENCH",
        help="Run `vllm bench serve` in turns with this client, at its knee and at twice that.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", envvar="JOYCAP_JSON", help="All figures as one line of JSON.")
]


def bench(
    inputs: Inputs = None,
    base_urls: BaseUrls = None,
    serve: Serve = None,
    model: Model = None,
    api_key_file: ApiKeyFile = None,
    type_name: Type = "descriptive",
    max_tokens: MaxTokens = 512,
    concurrency: Concurrency = "auto",
    levels: Levels = "",
    seconds: Seconds = 15.0,
    timeout: Timeout = 300.0,
    check: Check = True,
    pictures: Pictures = 2000,
    max_pixels: MaxPixels = 178_956_970,
    allow_private_urls: AllowPrivateUrls = False,
    url_timeout: UrlTimeout = 30.0,
    wire: Wire = "auto",
    recipe: RecipeFlag = None,
    compare_vllm_bench: Compare = False,
    as_json: AsJson = False,
) -> None:
    """Find the knee of a server, or of a fleet, with the real client, and what limits it.

    The knee is the fewest requests in flight with 95 % of the best rate. Nothing is written.

    Examples:

      joycap bench --base-url http://gpu:8000/v1

      joycap bench photos/ --compare-vllm-bench

      joycap bench --serve nano --levels 8,16,32 --seconds 5 --json

    Exit codes: 0 measured, 2 wrong usage, 3 no endpoint, 5 the server that
    --serve started keeps dying, 130 interrupted (what was measured so far is printed).
    """
    from joycap_vllm.cli.benching import BenchFlags, run_bench

    names = BenchFlags.__dataclass_fields__
    flags = BenchFlags(**{name: value for name, value in locals().items() if name in names})
    raise typer.Exit(run_bench(flags))
