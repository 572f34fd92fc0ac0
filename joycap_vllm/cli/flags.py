"""Flags that more than one command has: where to ask, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from joycap_vllm.cli import completing

ASK = "What to ask"
WHERE = "Where to ask"
HOW = "How answers are drawn"
OUT = "What is written"
WHICH = "Which images"

BaseUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        envvar=["JOYCAP_BASE_URL", "OPENAI_BASE_URL"],
        rich_help_panel=WHERE,
        help="OpenAI-compatible server; several make a fleet. (default: those "
        "that `joycap serve` runs here, else http://127.0.0.1:8000/v1)",
    ),
]
Endpoints = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_ENDPOINTS",
        rich_help_panel=WHERE,
        metavar="FILE|dns+http://NAME:PORT",
        help="Servers that may come and go meanwhile: a file with a base URL on each line, looked "
        "at every 2 s, or every address of a name. New ones get the test picture, then work; those "
        "no longer named end what they have begun. Adds to --base-url.",
    ),
]
Serve = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_SERVE",
        autocompletion=completing.served_models,
        rich_help_panel=WHERE,
        metavar="[MODEL]",
        help="Start a server for the length of the job: `nano`, a path, or a model's name.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_MODEL", rich_help_panel=WHERE, help="(default: what the server lists)"
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="JOYCAP_API_KEY_FILE",
        rich_help_panel=WHERE,
        help="File with the API key; else OPENAI_API_KEY.",
    ),
]
Concurrency = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_CONCURRENCY",
        rich_help_panel=WHERE,
        metavar="auto|N",
        help="Requests in flight over the whole fleet.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_TIMEOUT", rich_help_panel=WHERE, min=0.1, help="Seconds for a request."
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_PATIENCE",
        rich_help_panel=WHERE,
        help="Seconds to wait for servers that stopped answering.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        envvar="JOYCAP_CHECK",
        rich_help_panel=WHERE,
        help="Send each server a test picture first.",
    ),
]
Wire = Annotated[
    Literal["auto", "jpeg", "png", "png0", "bmp", "original"],
    typer.Option(
        envvar="JOYCAP_WIRE",
        rich_help_panel=WHERE,
        help="How pictures travel: as jpeg of quality 95 4:4:4; as png, png0 (not compressed) or "
        "bmp without loss; or as they are stored (original), so that the server squashes them. "
        "auto loses nothing where servers are near.",
    ),
]
RecipeFlag = Annotated[
    Literal["default", "exact", "fast"] | None,
    typer.Option(
        "--recipe",
        envvar="JOYCAP_RECIPE",
        rich_help_panel=HOW,
        help="How exactly pictures become 384x384: default is within 50 dB of exact for "
        "photographs, exact is slower and right for line drawings too, fast is coarser. "
        "(default: default, or the job's that is asked again)",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        envvar="JOYCAP_MAX_PIXELS",
        rich_help_panel=WHICH,
        min=1,
        help="Larger pictures fail unread.",
    ),
]
AllowPrivateUrls = Annotated[
    bool,
    typer.Option(
        "--allow-private-urls",
        envvar="JOYCAP_ALLOW_PRIVATE_URLS",
        rich_help_panel=WHICH,
        help="Fetch images also from addresses inside this network.",
    ),
]
UrlTimeout = Annotated[
    float,
    typer.Option(
        envvar="JOYCAP_URL_TIMEOUT",
        rich_help_panel=WHICH,
        min=0.1,
        help="Seconds for an image from a URL, with all redirects and attempts.",
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        envvar="JOYCAP_RETRIES",
        rich_help_panel=HOW,
        min=0,
        help="Attempts beyond the first, each in another way by the glitch's cause.",
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        envvar="JOYCAP_ACCEPT_CHANGES",
        rich_help_panel=OUT,
        help="Go on although the journal was made with other settings.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", envvar="JOYCAP_JSON", help="The summary as JSON on stdout."),
]
