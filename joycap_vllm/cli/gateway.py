"""`joycap gateway`: glitch-free JoyCaption for every tool that speaks the OpenAI API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from joycap_vllm.cli.flags import Endpoints, MaxPixels, RecipeFlag, Wire

Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; one that others can reach needs --keys-file. "
        "(default: 127.0.0.1)",
        envvar=["JOYCAP_GATEWAY_HOST", "JOYCAP_HOST"],
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port to listen on. (default: 8080; 5000 with --ai-toolkit)",
        envvar=["JOYCAP_GATEWAY_PORT", "JOYCAP_PORT"],
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
        help="File with the keys that callers may send: KEY or NAME KEY on each line. A change is "
        "taken at once.",
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
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A name that this gateway is reached by, as behind a proxy. Repeatable. Without keys, "
        "other names than localhost are refused: a web page could bring its own.",
        envvar="JOYCAP_ALLOW_HOST",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="A web application whose pages may ask from the browser, such as "
        "http://localhost:8000. Repeatable.",
        envvar="JOYCAP_ALLOW_ORIGIN",
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        min=1,
        help="Requests under way at once; more are told to come again (429).",
        envvar="JOYCAP_QUEUE",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="N",
        help="Requests a second that each key may send; 10 seconds' worth may come at once. "
        "Default: any.",
        envvar="JOYCAP_RATE",
    ),
]
MaxConnections = Annotated[
    int,
    typer.Option(
        min=1, help="Connections at once; more are closed.", envvar="JOYCAP_MAX_CONNECTIONS"
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
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    queue: Queue = 1024,
    rate: Rate = None,
    max_connections: MaxConnections = 4096,
    max_pixels: MaxPixels = 178_956_970,
    no_check: NoCheck = False,
) -> None:
    """Serves the OpenAI API in front of your servers: each answer is judged before it is sent.

    Tools point at http://127.0.0.1:8080/v1, pick a model such as joycaption/straightforward and
    send a picture, or its public URL. Chats without a picture are passed through. Scripts for
    Ollama find it with OLLAMA_HOST=127.0.0.1:8080, AI-Toolkit with --ai-toolkit. OPENAI_API_KEY
    is sent on to the servers, never a caller's key.

    Examples:

      joycap gateway --base-url http://gpu:8000/v1

      joycap gateway --root photos/

      joycap gateway --host 0.0.0.0 --keys-file keys

    Exit codes: 130 ended by Ctrl-C, 143 by SIGTERM, 1 no room for --state, 2 wrong usage, 3 no
    endpoint; 0 is AI-Toolkit's /shutdown.
    """
    from joycap_vllm.captioner import CaptionerOptions
    from joycap_vllm.gateway import Defaults, GatewayOptions, serve_gateway, toolkit_defaults
    from joycap_vllm.gateway.limits import Limits
    from joycap_vllm.images import Limits as PictureLimits

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
            limits=PictureLimits(pixels=max_pixels),
            check=not no_check,
            endpoints=endpoints or "",
        ),
        keys_file=keys_file,
        roots=tuple(roots or ()),
        ai_toolkit=ai_toolkit,
        state=state,
        allow_hosts=tuple(allow_host or ()),
        allow_origins=tuple(allow_origin or ()),
        limits=Limits(queue=queue, rate=rate, connections=max_connections),
    )
    serve_gateway(options, talk=lambda line: typer.echo(f"joycap: {line}", err=True))
