"""What all doors of the gateway share: the captioner, the limits, and how a request is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from joycap_vllm.captioner import Captioner
from joycap_vllm.gateway.reply import RefusedError

if TYPE_CHECKING:
    from joycap_vllm.gateway.batches import Batches
    from joycap_vllm.gateway.completions import Completions

MAX_BODY = 32 << 20  # bytes; a picture of 24 MB as base64
JSON = "application/json"
GONE = 499  # nginx's status for a client that left; nobody reads it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller may ask for at most.

    Args:
        body: Bytes of a request.
    """

    body: int = MAX_BODY


@dataclass(frozen=True, slots=True)
class Context:
    """What the doors stand on.

    Args:
        captioner: Open for as long as the gateway is served.
        keys: Keys of which a caller must send one; none lets everybody ask.
        limits: What a caller may ask for.
        roots: Folders whose files callers may name; none lets them name no file.
        stop: Ends the gateway once what is in flight has ended.
        ai_toolkit: Whether AI-Toolkit's routes are served too.
        completions: Who answers chat completions; None makes one over the captioner.
        batches: Files and batches, open; None keeps none.
    """

    captioner: Captioner
    keys: tuple[bytes, ...] = ()
    limits: Limits = field(default_factory=Limits)
    roots: tuple[Path, ...] = ()
    stop: Callable[[], None] = lambda: None
    ai_toolkit: bool = False
    completions: Completions | None = None
    batches: Batches | None = None


async def json_body(request: Request, limits: Limits) -> bytes:
    """The body of a request that must be JSON.

    Raises:
        RefusedError: It says that it is something else, or is too large.
    """
    return await read_body(request, limits)


async def read_body(request: Request, limits: Limits, *, any_type: bool = False) -> bytes:
    """The body of a request.

    Args:
        request: It.
        limits: How large it may be.
        any_type: Whether it need not say that it is JSON; only for what no page can have sent.

    Raises:
        RefusedError: It says that it is something else than JSON, or is too large.
    """
    # A page of another origin can post plain text without being asked first, but not JSON.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not any_type:
        raise RefusedError(415, f"the Content-Type must be {JSON}, not {kind or 'missing'}")
    whole = bytearray()
    async for chunk in request.stream():
        whole += chunk
        if len(whole) > limits.body:
            raise RefusedError(413, f"the request is over the limit of {limits.body / 1e6:.0f} MB")
    return bytes(whole)


async def while_connected(request: Request, work: Coroutine[None, None, _T]) -> _T | None:
    """What the work gives; None once the caller has left, whose retries then use no GPU."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
