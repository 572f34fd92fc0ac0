"""Starts the servers of a plan, waits until they serve, and leaves no process behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from joycap_vllm.errors import EngineError, JoycapError, UsageError
from joycap_vllm.server.launches import launches
from joycap_vllm.server.states import Change
from joycap_vllm.server.tender import Tender
from joycap_vllm.server.values import Plan, Replica

_T = TypeVar("_T")


class Engine:
    """The running servers of a plan."""

    def __init__(self, plan: Plan, tenders: list[Tender], cares: list[asyncio.Task[None]]) -> None:
        self.plan = plan
        self.tenders = tenders
        self._cares = cares

    @property
    def base_urls(self) -> tuple[str, ...]:
        return tuple(tender.replica.base_url for tender in self.tenders)

    async def wait(self) -> JoycapError:
        """Waits until the last server has been given up, and returns the reason."""
        await asyncio.wait(self._cares)
        error = self._cares[-1].exception()
        assert isinstance(error, JoycapError)  # noqa: S101  (a care ends in no other way)
        return error


@asynccontextmanager
async def engine(
    plan: Plan,
    *,
    on_line: Callable[[str], None],
    on_change: Callable[[Change], None] = lambda _: None,
) -> AsyncIterator[Engine]:
    """The servers of a plan, ready and proved; they are looked after within the block, and stopped
    on the way out.

    Args:
        on_line: Takes the lines of vLLM's logs that matter, and what the launcher has to say.
        on_change: Takes each change of a server's state.

    Raises:
        UsageError: The plan cannot be carried out here.
        EngineError: A port is taken, or a server did not start; the text holds its own last error.
        NoEndpointError: A server started and does not caption as JoyCaption should.
    """
    if plan.obstacle is not None:
        raise UsageError(plan.obstacle)
    for replica in plan.replicas:
        check_port(replica)
    told, changed = _unheard(on_line), _unheard(on_change)
    tenders = [Tender(plan, replica, told, changed) for replica in plan.replicas]
    cares = [asyncio.create_task(tender.run()) for tender in tenders]
    try:
        await _all_ready(tenders, cares)
        yield Engine(plan, tenders, cares)
    finally:
        await _stop_all(tenders, cares)


def _unheard(tell: Callable[[_T], None]) -> Callable[[_T], None]:
    """The same for a listener that may go away, as a terminal does: the servers are tended on."""

    def told(what: _T) -> None:
        with contextlib.suppress(OSError):
            tell(what)

    return told


@asynccontextmanager
async def running(plan: Plan, *, on_line: Callable[[str], None]) -> AsyncIterator[tuple[str, ...]]:
    """As `engine`, but gives only the base URLs, "http://127.0.0.1:8000/v1"."""
    async with engine(plan, on_line=on_line) as servers:
        yield servers.base_urls


def check_port(replica: Replica) -> None:
    """Says so before minutes of loading when a port is taken, or will be by a server that loads.

    Raises:
        EngineError: Another process listens on the port, or another launcher starts a server there.
    """
    host = replica.host
    if (way_out := _launched_before(replica)) is not None:
        raise EngineError(f"port {replica.port} of {host} is taken: {way_out}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will bind it: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, replica.port))
        except OSError as error:
            raise EngineError(
                f"port {replica.port} of {host} cannot be used: {error.strerror or error}; "
                "--port takes another"
            ) from error


def _launched_before(replica: Replica) -> str | None:
    """The launcher that has this port already; of two that start together, the one before us."""
    found = launches()
    mine = next((launch.order for launch in found if launch.pid == os.getpid()), None)
    for launch in found:
        theirs = any(server.url == replica.base_url for server in launch.servers)
        if theirs and launch.pid != os.getpid() and (mine is None or launch.order < mine):
            return (
                f"`joycap serve` (process {launch.pid}) serves there, and `joycap serve --stop "
                f"--port {replica.port}` ends it; --port takes another"
            )
    return None


async def _all_ready(tenders: list[Tender], cares: list[asyncio.Task[None]]) -> None:
    """Waits until all have been ready once; the first that never will be ends the waiting."""
    ready = asyncio.create_task(_each_once(tenders))
    try:
        await asyncio.wait({ready, *cares}, return_when=asyncio.FIRST_COMPLETED)
        for tender, care in zip(tenders, cares, strict=True):
            if care.done() and not tender.was_ready.is_set():
                care.result()
        await ready
    finally:
        ready.cancel()


async def _each_once(tenders: list[Tender]) -> None:
    for tender in tenders:
        await tender.was_ready.wait()


async def _stop_all(tenders: list[Tender], cares: list[asyncio.Task[None]]) -> None:
    """Stops all servers at the same time; to be cancelled meanwhile means: at once."""
    for care in cares:
        care.cancel()
    await asyncio.gather(*cares, return_exceptions=True)
    stopping = asyncio.gather(*(tender.stop() for tender in tenders))
    cancelled = False
    while not stopping.done():
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            cancelled = True
            for tender in tenders:
                tender.kill()
    if cancelled:
        raise asyncio.CancelledError
