"""Serves the gateway: one socket, one captioner, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from joycap_vllm.captioner import Captioner, CaptionerOptions
from joycap_vllm.errors import MissingExtraError, OutputError, UsageError
from joycap_vllm.gateway.keys import Keyring, KeysFile
from joycap_vllm.gateway.limits import Limits
from joycap_vllm.gateway.roots import existing_roots
from joycap_vllm.job.collecting import seldom_collecting

if TYPE_CHECKING:
    from joycap_vllm.gateway.batches import Batches
    from joycap_vllm.gateway.completions import Completions
    from joycap_vllm.gateway.context import Context

# Seconds; uvicorn's own 5 would close connections that tools are about to use again.
_KEEP_ALIVE = 120
_PATIENCE = 60.0  # seconds; a tool gives up on a dead fleet sooner than a job does
_NEWS = 1.0  # seconds between two looks at what there is to tell


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the gateway is served.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes any that is free.
        urls: Base URLs of the fleet; empty is the captioner's default.
        captioner: How the fleet is asked.
        roots: Folders whose files callers may name by their path.
        ai_toolkit: Whether AI-Toolkit's routes are served too.
        state: Folder of files and batches; None takes one in the user's state folder.
        keys_file: File with the keys that callers may send, `KEY` or `NAME KEY` on each line; it
            is read again whenever it changes.
        allow_hosts: Names by which the gateway is reached beside its address.
        allow_origins: Origins, such as `https://chat.example.org`, whose pages may ask.
        limits: What callers may ask for.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    urls: tuple[str, ...] = ()
    captioner: CaptionerOptions = field(default_factory=CaptionerOptions)
    keys_file: Path | None = None
    roots: tuple[Path, ...] = ()
    ai_toolkit: bool = False
    state: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def serve_gateway(options: GatewayOptions, *, talk: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, and lets requests in flight end first; a second one ends all.

    Args:
        options: How.
        talk: Is told, a line at a time, what a user should know: the address, once it answers.

    Raises:
        MissingExtraError: The extra `web` is not installed.
        UsageError: An open address without keys, a keys file without keys, an origin that is none,
            or a port that cannot be had.
        NoEndpointError: None can be reached, or none passes its check.
        OutputError: The folder of files and batches cannot be made.
        KeyboardInterrupt: After SIGINT; after SIGTERM the process ends by that signal.
    """
    _require_web()
    keys = KeysFile(options.keys_file) if options.keys_file is not None else None
    if keys is None and not is_loopback(options.host):
        raise UsageError(
            f"{options.host} can be reached from other machines: give --keys-file with the keys "
            "that callers must send"
        )
    options = replace(options, roots=existing_roots(options.roots))
    for warning in keys.warnings() if keys is not None else ():
        talk(warning)
    options = replace(options, allow_origins=tuple(map(_origin, options.allow_origins)))
    with _bound(options.host, options.port) as listener:
        ended_by = asyncio.run(_serve(options, keys, listener, talk))
    # Only now: while all is being closed, it would interrupt that.
    if ended_by is not None:
        signal.raise_signal(ended_by)


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
    keys: KeysFile | None,
    listener: socket.socket,
    talk: Callable[[str], None],
) -> int | None:
    """Returns the signal that ended it."""
    from PIL import Image

    from joycap_vllm.gateway.app import make_app
    from joycap_vllm.gateway.completions import Completions
    from joycap_vllm.gateway.context import Context
    from joycap_vllm.gateway.server import make_server

    Image.MAX_IMAGE_PIXELS = None  # pictures are held against --max-pixels before they are read
    patient = replace(options.captioner.fleet, patience=_PATIENCE, impatient=True)
    how = replace(options.captioner, fleet=patient)
    # The captioner is opened outside of ASGI's lifespan: there its NoEndpointError would become a
    # traceback in uvicorn's log. The port is held already, and answers only once this is done.
    async with contextlib.AsyncExitStack() as stack:
        captioner = await stack.enter_async_context(Captioner(*options.urls, options=how))
        completions = stack.enter_context(contextlib.closing(Completions(captioner)))
        batches = _batches(options.state, completions, talk)
        if batches is not None:
            await stack.enter_async_context(batches)
        context = Context(
            captioner,
            keys=keys.ring if keys else Keyring(),
            limits=options.limits,
            allow_hosts=frozenset(_host_names(options)),
            allow_origins=frozenset(options.allow_origins),
            roots=options.roots,
            stop=lambda: server.drain(),
            ai_toolkit=options.ai_toolkit,
            completions=completions,
            batches=batches,
        )
        server = make_server(make_app(context), context, keep_alive=_KEEP_ALIVE)
        for notice in captioner.notices:
            talk(notice)
        listener.listen(server.config.backlog)
        talk(f"listening on {_base_url(listener)}")
        if options.ai_toolkit:
            _tell_toolkit(context, _base_url(listener), talk)
        news = asyncio.create_task(_tell_news(captioner, keys, talk))
        try:
            with seldom_collecting():
                await server.serve(sockets=[listener])
        finally:
            news.cancel()
    return server.ended_by


def _batches(
    folder: Path | None, completions: Completions, talk: Callable[[str], None]
) -> Batches | None:
    """What keeps files and batches; None where nobody named a folder and there can be none, as on
    a machine that is all read-only."""
    from joycap_vllm.gateway.batches import Batches

    try:
        usual = platformdirs.user_state_path("joycap-vllm") / "gateway"
        return Batches(folder or usual, completions)
    except OutputError as error:
        if folder is not None:
            raise
        talk(f"no files and batches are kept: {error}")
        return None


def _tell_toolkit(context: Context, url: str, talk: Callable[[str], None]) -> None:
    talk(f"AI-Toolkit finds it with CAPTION_SERVICE_URL={url.removesuffix('/v1')}")
    if context.keys:
        talk("AI-Toolkit's page sends no key, so with --keys-file its requests are refused")
    if not context.roots:
        talk(
            "AI-Toolkit names pictures by their path, and none may be read yet: give its folder "
            "of datasets with --root"
        )


async def _tell_news(
    captioner: Captioner, keys: KeysFile | None, talk: Callable[[str], None]
) -> None:
    while True:
        while captioner.fleet.news:
            talk(captioner.fleet.news.popleft())
        if keys is not None and (told := keys.refresh()):
            talk(told)
        await asyncio.sleep(_NEWS)


def _host_names(options: GatewayOptions) -> Iterator[str]:
    for name in options.allow_hosts:
        yield name.strip().lower().rstrip(".")


def _origin(text: str) -> str:
    """An origin as browsers write it.

    Raises:
        UsageError: It is none.
    """
    origin = text.strip().rstrip("/").lower()
    scheme, mark, host = origin.partition("://")
    if not mark or not scheme or not host or any(mark in host for mark in "/?#@* "):
        raise UsageError(
            f"--allow-origin takes an origin such as https://chat.example.org, not {text}"
        )
    return origin


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
