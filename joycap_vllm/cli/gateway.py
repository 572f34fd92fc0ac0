"""`joycap gateway`: glitch-free JoyCaption for every tool that speaks the OpenAI API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from joycap_vllm.cli.flags import Endpoints, RecipeFlag, Wire

Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; one that others can reach needs --keys-file. "
        "(default: 127.0.0.1)",
        envvar="JOYCAP_HOST",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port to listen on. (default: 8080; 5000 with --ai-toolkit)",
        envvar="JOYCAP_PORT",
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="A server to ask. Repeatable. Default: http://127.0.0.1:8000/v1.",
        envvar=["JOYCAP_BASE_URL", "OPENAI_BASE_URL"],
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="The model's name there. Default: what the server lists.", envvar="JOYCAP_MODEL"
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Attempts for each request beyond the first where answers are glitches; each is "
        "asked again in another way, by its cause.",
        envvar="JOYCAP_RETRIES",
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the keys that callers may send, one a line.",
        envvar="JOYCAP_KEYS_FILE",
    ),
]
AiToolkit = Annotated[
    bool,
    typer.Option(
        "--ai-toolkit",
        help="Be AI-Toolkit's captioning service too: its routes on its port 5000. CAPTION_HOST, "
        "CAPTION_PORT and CAPTION_MODEL are honoured; its pictures must be below a --root.",
        envvar="JOYCAP_AI_TOOLKIT",
    ),
]
Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder whose pictures callers may name by their path. Repeatable. Default: none.",
        envvar="JOYCAP_ROOT",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder where files and batches are kept; a gateway that is started again goes on "
        "with its batches. Default: one in your state folder.",
        envvar="JOYCAP_STATE",
    ),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Leave out the test picture at the start.", envvar="JOYCAP_NO_CHECK"
    ),
]


def gateway(
    host: Host = None,
    port: Port = None,
    base_url: BaseUrl = None,
    endpoints: Endpoints = None,
    model: Model = None,
    retries: Retries = 4,
    wire: Wire = "auto",
    recipe: RecipeFlag = None,
    keys_file: KeysFile = None,
    roots: Roots = None,
    ai_toolkit: AiToolkit = False,
    state: State = None,
    no_check: NoCheck = False,
) -> None:
    """Serves the OpenAI API in front of your servers: each answer is judged before it is sent.

    Tools point at http://127.0.0.1:8080/v1, pick a model such as joycaption/straightforward and
    send a picture. Scripts for Ollama find it with OLLAMA_HOST=127.0.0.1:8080, AI-Toolkit with
    --ai-toolkit. OPENAI_API_KEY is sent on to the servers.
    """
    from joycap_vllm.captioner import CaptionerOptions
    from joycap_vllm.gateway import Defaults, GatewayOptions, serve_gateway, toolkit_defaults

    defaults = toolkit_defaults(os.environ) if ai_toolkit else Defaults()
    options = GatewayOptions(
        host=host or defaults.host,
        port=port or defaults.port,
        urls=tuple(base_url or ()),
        captioner=CaptionerOptions(
            model=model or defaults.model,
            api_key=os.environ.get("OPENAI_API_KEY") or None,
            retries=retries,
            wire=None if wire == "auto" else wire,
            recipe=recipe,
            check=not no_check,
            endpoints=endpoints or "",
        ),
        keys_file=keys_file,
        roots=tuple(roots or ()),
        ai_toolkit=ai_toolkit,
        state=state,
    )
    serve_gateway(options, talk=lambda line: typer.echo(f"joycap: {line}", err=True))
