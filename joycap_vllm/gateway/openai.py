"""The OpenAI API: chat completions about pictures, and the models that can be asked."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from joycap_vllm.captioner import Outcome
from joycap_vllm.gateway.context import GONE, JSON, Context, json_body, while_connected
from joycap_vllm.gateway.reply import (
    completion,
    events,
    models,
    refusal_for,
    refused,
    trace_headers,
)
from joycap_vllm.gateway.request import Asked, decode_image, model_names, read_request


def openai_routes(context: Context) -> list[BaseRoute]:
    """The routes below /v1."""
    door = _OpenAI(context)
    return [
        Route("/v1/chat/completions", door.chat, methods=["POST"]),
        Route("/v1/models", door.models, methods=["GET"]),
    ]


class _OpenAI:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked = read_request(await json_body(request, self._context.limits))
        outcome = await while_connected(request, self._outcome(asked))
        if outcome is None:
            return Response(status_code=GONE)
        refusal = refusal_for(outcome)
        if refusal is not None:
            return refused(refusal)
        headers = trace_headers(outcome)
        if asked.stream:
            body = b"".join(events(asked.model, outcome, with_usage=asked.stream_usage))
            headers["Cache-Control"] = "no-cache"
            return Response(body, media_type="text/event-stream", headers=headers)
        return Response(completion(asked.model, outcome), media_type=JSON, headers=headers)

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        return Response(models(model_names()), media_type=JSON)

    async def _outcome(self, asked: Asked) -> Outcome:
        captioner = self._context.captioner
        image = await captioner.pool.prepare(lambda: decode_image(asked.image))
        return await captioner.outcome(image, asked.prompt, key=image.sha256)
