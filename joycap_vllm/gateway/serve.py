"""Serves the gateway: one socket, one captioner, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from joycap_vllm.captioner import Captioner, CaptionerOptions
from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.gateway.keys import read_keys
from joycap_vllm.gateway.roots import existing_roots

if TYPE_CHECKING:
    from joycap_vllm.gateway.context import Context

_DRAIN = 30  # seconds that requests in flight get to end
# Seconds; uvicorn's own 5 would close connections that tools are about to use again.
_KEEP_ALIVE = 120
_PATIENCE = 60.0  # seconds; a tool gives up on a dead fleet sooner than a job does
_NEWS = 1.0  # seconds between two looks at what the fleet has to tell


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the gateway is served.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes any that is free.
        urls: Base URLs of the fleet; empty is the captioner's default.
        captioner: How the fleet is asked.
        keys_file: File with the keys that callers may send, one a line.
        roots: Folders whose files callers may name by their path.
        ai_toolkit: Whether AI-Toolkit's routes are served too.
        state: Folder of files and batches; None takes one in the user's state folder.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    urls: tuple[str, ...] = ()
    captioner: CaptionerOptions = field(default_factory=CaptionerOptions)
    keys_file: Path | None = None
    roots: tuple[Path, ...] = ()
    ai_toolkit: bool = False
    state: Path | None = None


def serve_gateway(options: GatewayOptions, *, talk: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, and lets requests in flight end first.

    Args:
        options: How.
        talk: Is told, a line at a time, what a user should know: the address, once it answers.

    Raises:
        MissingExtraError: The extra `web` is not installed.
        UsageError: An open address without keys, a keys file without keys, a root that is no
            folder, or a port that cannot be had.
        NoEndpointError: None can be reached, or none passes its check.
        KeyboardInterrupt: After SIGINT; after SIGTERM the process ends by that signal.
    """
    _require_web()
    keys = read_keys(options.keys_file) if options.keys_file is not None else ()
    if not keys and not is_loopback(options.host):
        raise UsageError(
            f"{options.host} can be reached from other machines: give --keys-file with the keys "
            "that callers must send"
        )
    options = replace(options, roots=existing_roots(options.roots))
    with _bound(options.host, options.port) as listener:
        asyncio.run(_serve(options, keys, listener, talk))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _serve(
    options: GatewayOptions,
    keys: tuple[bytes, ...],
    listener: socket.socket,
    talk: Callable[[str], None],
) -> None:
    import uvicorn

    from joycap_vllm.gateway.app import make_app
    from joycap_vllm.gateway.batches import Batches
    from joycap_vllm.gateway.completions import Completions
    from joycap_vllm.gateway.context import Context

    patient = replace(options.captioner.fleet, patience=_PATIENCE)
    how = replace(options.captioner, fleet=patient)
    # The captioner is opened outside of ASGI's lifespan: there its NoEndpointError would become a
    # traceback in uvicorn's log. The port is held already, and answers only once this is done.

    def stop() -> None:
        server.should_exit = True

    state = options.state or platformdirs.user_state_path("joycap-vllm") / "gateway"
    async with contextlib.AsyncExitStack() as stack:
        captioner = await stack.enter_async_context(Captioner(*options.urls, options=how))
        completions = stack.enter_context(contextlib.closing(Completions(captioner)))
        batches = await stack.enter_async_context(Batches(state, completions))
        context = Context(
            captioner,
            keys=keys,
            roots=options.roots,
            stop=stop,
            ai_toolkit=options.ai_toolkit,
            completions=completions,
            batches=batches,
        )
        config = uvicorn.Config(
            make_app(context),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_DRAIN,
        )
        server = uvicorn.Server(config)
        for notice in captioner.notices:
            talk(notice)
        listener.listen(config.backlog)
        talk(f"listening on {_base_url(listener)}")
        if options.ai_toolkit:
            _tell_toolkit(context, _base_url(listener), talk)
        news = asyncio.create_task(_tell_news(captioner, talk))
        try:
            await server.serve(sockets=[listener])
        finally:
            news.cancel()


def _tell_toolkit(context: Context, url: str, talk: Callable[[str], None]) -> None:
    talk(f"AI-Toolkit finds it with CAPTION_SERVICE_URL={url.removesuffix('/v1')}")
    if context.keys:
        talk("AI-Toolkit's page sends no key, so with --keys-file its requests are refused")
    if not context.roots:
        talk(
            "AI-Toolkit names pictures by their path, and none may be read yet: give its folder "
            "of datasets with --root"
        )


async def _tell_news(captioner: Captioner, talk: Callable[[str], None]) -> None:
    while True:
        while captioner.fleet.news:
            talk(captioner.fleet.news.popleft())
        await asyncio.sleep(_NEWS)


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "--host and --port choose another"
        ) from error
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _require_web() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("joycap gateway", "web") from error
