"""The OpenAI API: chat completions, and the models that can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import GONE, JSON, Context, json_body, while_connected
from joycap_vllm.gateway.passthrough import pass_stream
from joycap_vllm.gateway.prompting import model_names, read_model
from joycap_vllm.gateway.reply import Whole, model_row, models
from joycap_vllm.gateway.request import Asked, Chat

# Seconds without an answer after which a stream begins with a comment, and gets one more each time:
# callers and proxies take long silence for a dead server.
KEEP_ALIVE = 10.0


def openai_routes(context: Context, completions: Completions) -> list[BaseRoute]:
    """The routes below /v1."""
    door = _OpenAI(context, completions)
    return [
        Route("/v1/chat/completions", door.chat, methods=["POST"]),
        Route("/v1/models", door.models, methods=["GET"]),
        Route("/v1/models/{name:path}", door.model, methods=["GET"]),
    ]


class _OpenAI:
    def __init__(self, context: Context, completions: Completions) -> None:
        self._context = context
        self._completions = completions

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked = self._completions.read(await json_body(request, self._context.limits))
        if not asked.stream:
            whole = await while_connected(request, self._completions.whole(asked))
            return Response(status_code=GONE) if whole is None else whole.response
        if isinstance(asked, Chat):
            chat, fleet = await self._completions.ready(asked), self._context.captioner.fleet
            return _Sending(lambda send: pass_stream(fleet, chat, send))
        return await self._judged(request, asked)

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return Response(models(model_names(self._completions.served)), media_type=JSON)

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`; also of names with a length, which the list leaves out."""
        name = request.path_params["name"]
        read_model(name, self._completions.served)
        return Response(orjson.dumps(model_row(name)), media_type=JSON)

    async def _judged(self, request: Request, asked: Asked) -> Response:
        """A stream, which is sent once it is judged. One that is judged soon, or refused, has the
        status and headers of an answer; one that takes long begins before that is known."""
        work = asyncio.create_task(self._completions.streamed(asked))
        try:
            waited = await while_connected(request, asyncio.wait({work}, timeout=KEEP_ALIVE))
        except BaseException:
            work.cancel()
            raise
        if work.done():
            return work.result().response
        if waited is None:
            work.cancel()
            return Response(status_code=GONE)
        return _Sending(lambda send: _late(work, send))


class _Sending(Response):
    """A response that is sent piece by piece, and ends early where its caller leaves.

    Args:
        pump: Sends it.
    """

    def __init__(self, pump: Callable[[Send], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._pump = pump

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(Request(scope, receive), self._pump(send))


async def _late(work: asyncio.Task[Whole], send: Send) -> None:
    """Comments until the work is done, then what it gives."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not work.done():
            await send(_body(b": judging\n\n", more=True))
            await asyncio.wait({work}, timeout=KEEP_ALIVE)
        whole = work.result()
        failed = b"data: " + whole.body + b"\n\n"
        await send(_body(whole.body if whole.status == 200 else failed, more=False))
    finally:
        work.cancel()


def _body(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}
