"""What all doors of the gateway share: the captioner, the limits, and how a request is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from joycap_vllm.captioner import Captioner
from joycap_vllm.gateway.bounds import require_terse
from joycap_vllm.gateway.gate import Gate, OverError, too_large
from joycap_vllm.gateway.keys import Key, Keyring
from joycap_vllm.gateway.limits import Limits
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.sessions import Sessions

if TYPE_CHECKING:
    from joycap_vllm.gateway.batches import Batches
    from joycap_vllm.gateway.completions import Completions


__all__ = [
    "CALLER",
    "GONE",
    "JSON",
    "Context",
    "Limits",
    "caller",
    "json_body",
    "may_know",
    "read_body",
    "while_connected",
]

JSON = "application/json"
CALLER = "joycap.caller"  # where a request's scope has the key that it came with
GONE = 499  # nginx's status for a client that left; nobody reads it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Context:
    """What the doors stand on.

    Args:
        captioner: Open for as long as the gateway is served.
        keys: Keys of which a caller must send one; none lets everybody ask.
        limits: What a caller may ask for.
        allow_hosts: Names, in small letters, by which the gateway is reached beside its own.
        allow_origins: Pages of other origins that may ask, as browsers name them.
        roots: Folders whose files callers may name; none lets them name no file.
        stop: Ends the gateway once what is in flight has ended.
        ai_toolkit: Whether AI-Toolkit's routes are served too.
        completions: Who answers chat completions; None makes one over the captioner.
        batches: Files and batches, open; None keeps none.
        gate: What is inside by now.
        sessions: Who is logged in.
    """

    captioner: Captioner
    keys: Keyring = field(default_factory=Keyring)
    limits: Limits = field(default_factory=Limits)
    allow_hosts: frozenset[str] = frozenset()
    allow_origins: frozenset[str] = frozenset()
    roots: tuple[Path, ...] = ()
    stop: Callable[[], None] = lambda: None
    ai_toolkit: bool = False
    completions: Completions | None = None
    batches: Batches | None = None
    gate: Gate = field(default_factory=Gate)
    sessions: Sessions = field(default_factory=Sessions)


def caller(request: Request) -> Key | None:
    """The key that a request came with; None for anybody's."""
    key: Key | None = request.scope.get(CALLER)
    return key


def may_know(request: Request, context: Context) -> bool:
    """Whether a caller may be told how things are inside: addresses of servers, say."""
    return not context.keys or caller(request) is not None


async def json_body(request: Request, limits: Limits) -> bytes:
    """The body of a request that must be JSON.

    Raises:
        RefusedError: It says that it is something else, is too large, or holds too many values.
    """
    return await read_body(request, limits)


async def read_body(request: Request, limits: Limits, *, any_type: bool = False) -> bytes:
    """The body of a request.

    Args:
        request: It.
        limits: How large it may be.
        any_type: Whether it need not say that it is JSON; only for what no page can have sent.

    Raises:
        RefusedError: It says that it is something else than JSON, is too large, or holds too many
            values.
    """
    # A page of another origin can post plain text without being asked first, but not JSON.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not any_type:
        raise RefusedError(415, f"the Content-Type must be {JSON}, not {kind or 'missing'}")
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > limits.body:
            raise OverError(too_large(limits.body))
    body = b"".join(chunks)
    require_terse(body)
    return body


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
