"""The web application: routes, limits, and a captioner behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from joycap_vllm.captioner import Captioner, Outcome
from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.keys import allowed
from joycap_vllm.gateway.reply import (
    Refusal,
    RefusedError,
    completion,
    events,
    models,
    refusal_for,
    refusal_of,
    trace_headers,
)
from joycap_vllm.gateway.request import Asked, decode_image, model_names, read_request

MAX_BODY = 32 << 20  # bytes; a picture of 24 MB as base64
_JSON = "application/json"
_GONE = 499  # nginx's status for a client that left; nobody reads it


def make_app(
    captioner: Captioner, *, keys: Sequence[bytes] = (), max_body: int = MAX_BODY
) -> Starlette:
    """The gateway as an ASGI application.

    Args:
        captioner: An open captioner; it stays open as long as the application is served.
        keys: Keys of which a caller must send one; none lets everybody ask.
        max_body: Most bytes of a request.
    """
    gateway = _Gateway(captioner, tuple(keys), max_body)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", gateway.guarded(gateway.chat), methods=["POST"]),
            Route("/v1/models", gateway.guarded(gateway.models), methods=["GET"]),
            Route("/health", gateway.health, methods=["GET"]),
        ],
        exception_handlers={
            RefusedError: _on_refused,
            JoycapError: _on_joycap,
            HTTPException: _on_http,
            ClientDisconnect: _on_gone,
            Exception: _on_fault,
        },
    )


class _Gateway:
    """The handlers, with what they share."""

    def __init__(self, captioner: Captioner, keys: tuple[bytes, ...], max_body: int) -> None:
        self._captioner = captioner
        self._keys = keys
        self._max_body = max_body

    def guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """`handler` for those only who may ask."""

        async def checked(request: Request) -> Response:
            if not allowed(request, self._keys):
                raise RefusedError(401, "send one of the gateway's keys as a bearer token")
            return await handler(request)

        return checked

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked = read_request(await self._body(request))
        outcome = await _while_connected(request, self._outcome(asked))
        if outcome is None:
            return Response(status_code=_GONE)
        refusal = refusal_for(outcome)
        if refusal is not None:
            return _refused(refusal)
        headers = trace_headers(outcome)
        if asked.stream:
            body = b"".join(events(asked.model, outcome, with_usage=asked.stream_usage))
            headers["Cache-Control"] = "no-cache"
            return Response(body, media_type="text/event-stream", headers=headers)
        return Response(completion(asked.model, outcome), media_type=_JSON, headers=headers)

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return Response(models(model_names()), media_type=_JSON)

    async def health(self, _: Request) -> Response:
        """`GET /health`: 503 with the reason while no endpoint can be reached."""
        why = self._captioner.fleet.state
        body = {"status": "unavailable", "why": why} if why else {"status": "ok"}
        return Response(orjson.dumps(body), 503 if why else 200, media_type=_JSON)

    async def _outcome(self, asked: Asked) -> Outcome:
        image = await self._captioner.pool.prepare(lambda: decode_image(asked.image))
        return await self._captioner.outcome(image, asked.prompt, key=image.sha256)

    async def _body(self, request: Request) -> bytes:
        # A page of another origin can post plain text without being asked first, but not JSON.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            raise RefusedError(415, f"the Content-Type must be {_JSON}, not {kind or 'missing'}")
        whole = bytearray()
        async for chunk in request.stream():
            whole += chunk
            if len(whole) > self._max_body:
                raise RefusedError(
                    413, f"the request is over the limit of {self._max_body / 1e6:.0f} MB"
                )
        return bytes(whole)


async def _while_connected(
    request: Request, work: Coroutine[None, None, Outcome]
) -> Outcome | None:
    """The outcome, or None once the caller has left, so that nobody's retries use the GPU."""
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


def _refused(refusal: Refusal) -> Response:
    headers = dict(refusal.headers)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(refusal.body, refusal.status, media_type=_JSON, headers=headers)


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - as registered
    return _refused(error.refusal)


async def _on_joycap(_: Request, error: Exception) -> Response:
    assert isinstance(error, JoycapError)  # noqa: S101 - as registered
    return _refused(refusal_of(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    return _refused(Refusal(error.status_code, error.detail))


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=_GONE)


async def _on_fault(_: Request, __: Exception) -> Response:
    return _refused(Refusal(500, "a fault in the gateway; its log says more", "server_error"))
