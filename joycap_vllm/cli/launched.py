"""`joycap serve --status` and `--stop`: the servers that run on this machine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from joycap_vllm.server import Change, Launch

BaseUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        envvar=["JOYCAP_BASE_URL", "OPENAI_BASE_URL"],
        help="Server to look at. (default: those that run here, or http://127.0.0.1:8000/v1)",
    ),
]
_LOOK_SECONDS = 0.5
_STOP_SECONDS = 120.0  # a drain takes 60, and a kill some more
_NONE = 3  # exit code where no server is there


def urls_of(given: list[str] | None) -> list[str]:
    """The servers to look at: those named, else those that `joycap serve` runs here, else the
    usual address."""
    from joycap_vllm.captioner import DEFAULT_URL

    return given or [url for url, _ in _running()] or [DEFAULT_URL]


def fleet_of(given: list[str] | None) -> list[str]:
    """As `urls_of`, for work that one model must do.

    Raises:
        UsageError: Several models run here, and none of the servers is named.
    """
    from joycap_vllm.errors import UsageError

    if not given and len(models := {model for _, model in _running()}) > 1:
        told = "; ".join(f"{url} has {model}" for url, model in _running())
        raise UsageError(f"{len(models)} models run here, --base-url chooses: {told}")
    return urls_of(given)


def _running() -> list[tuple[str, str]]:
    """The servers of this machine that are ready or will be, each with its model."""
    from joycap_vllm.server import launches

    return [
        (server.url, launch.model)
        for launch in launches()
        for server in launch.servers
        if server.state.value in ("starting", "ready", "died")
    ]


async def started(urls: Iterable[str], say: Callable[[str], None]) -> None:
    """Waits while a `joycap serve` of this machine still starts one of these servers."""
    from joycap_vllm.fleet import normal_url
    from joycap_vllm.server import launches

    wanted = {_numeric(normal_url(url)) for url in urls}
    told = False
    while starting := [
        server.url
        for launch in launches()
        for server in launch.servers
        if _numeric(server.url) in wanted and server.state.value in ("starting", "died")
    ]:
        if not told:
            say(f"waiting for `joycap serve`, which starts {', '.join(starting)}")
        told = True
        await asyncio.sleep(_LOOK_SECONDS)


def _numeric(url: str) -> str:
    return url.replace("//localhost:", "//127.0.0.1:")


def show(port: int | None, *, as_json: bool) -> int:
    """Prints the launchers and their servers.

    Args:
        port: Only the launcher with a server there.
        as_json: As one JSON list.

    Returns:
        The exit code: 0, or 3 where none is ready.
    """
    found = _chosen(port)
    if as_json:
        typer.echo(json.dumps([asdict(launch) for launch in found]))
    elif not found:
        typer.echo(_nothing(port), err=True)
    for launch in found if not as_json else ():
        typer.echo(f"{launch.model}, process {launch.pid}, for {_span(launch.started)}")
        for server in launch.servers:
            typer.echo(f"  {server.url}  {_words(server)}")
    ready = any(server.state.value == "ready" for launch in found for server in launch.servers)
    return 0 if ready else _NONE


def stop_all(port: int | None) -> int:
    """Stops the launchers, all at the same time.

    Returns:
        The exit code: 0, 1 where one would not end, or 3 where there was none.
    """
    from concurrent.futures import ThreadPoolExecutor

    from joycap_vllm.server import stop

    found = _chosen(port)
    if not found:
        typer.echo(_nothing(port), err=True)
        return _NONE
    with ThreadPoolExecutor(len(found)) as threads:
        ended = list(threads.map(lambda launch: stop(launch, _STOP_SECONDS), found))
    for launch, gone in zip(found, ended, strict=True):
        urls = ", ".join(server.url for server in launch.servers)
        word = "stopped" if gone else f"did not stop within {_STOP_SECONDS:.0f} s"
        typer.echo(f"{launch.model} ({urls}), process {launch.pid}: {word}", err=True)
    return 0 if all(ended) else 1


def _chosen(port: int | None) -> list[Launch]:
    from joycap_vllm.server import launches

    return [
        launch
        for launch in launches()
        if port is None or any(urlsplit(server.url).port == port for server in launch.servers)
    ]


def _nothing(port: int | None) -> str:
    where = "" if port is None else f" on port {port}"
    return f"no server of `joycap serve` runs here{where}"


def _words(server: Change) -> str:
    parts = [f"{server.state.value} for {_span(server.at)}"]
    if server.gpu:
        parts.append(f"GPU {server.gpu}")
    if server.restarts:
        parts.append(f"started again {server.restarts} time{'s' * (server.restarts > 1)}")
    if server.why:
        parts.append(server.why.splitlines()[0])
    return ", ".join([*parts, f"log: {server.log}"])


def _span(since: float) -> str:
    seconds = int(time.time() - since)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
