"""`joycap retry`: what ended without a caption, asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from joycap_vllm.cli import completing
from joycap_vllm.cli.answers import MaxGlitchRate
from joycap_vllm.cli.flags import (
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
from joycap_vllm.cli.options import AskFlags
from joycap_vllm.cli.talk import LogFormat, MetricsPort

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The job's folder (that of --out, where it had one), or its journal's."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        envvar="JOYCAP_ONLY",
        autocompletion=completing.endings,
        help="glitched, failed, or a kind of glitch; several add up. "
        "(default: glitched and failed)",
        show_default=False,
    ),
]


def retry(
    folder: Folder,
    only: Only = None,
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
    allow_private_urls: AllowPrivateUrls = False,
    url_timeout: UrlTimeout = 30.0,
    wire: Wire = "auto",
    recipe: RecipeFlag = None,
    max_glitch_rate: MaxGlitchRate = "off",
    accept_changes: AcceptChanges = False,
    as_json: AsJson = False,
    log_format: LogFormat = "text",
    metrics_port: MetricsPort = None,
) -> None:
    """Ask again what a job could not caption, with the job's own settings and new seeds.

    Sidecars that say something else than the job wrote stay, where the job skipped existing ones.

    Examples:

      joycap retry photos/

      joycap retry photos/ --only refusal --retries 8

    Exit codes: as those of `joycap caption`.
    """
    from joycap_vllm.cli.running import run_retry

    given = {k: v for k, v in locals().items() if k not in ("folder", "only", "run_retry")}
    wanted = frozenset(only or ("glitched", "failed"))
    raise typer.Exit(run_retry(folder, wanted, AskFlags(**given)))
