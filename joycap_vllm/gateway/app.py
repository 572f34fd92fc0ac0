"""The web application: every door of the gateway, behind the same locks."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.batches.door import batch_routes
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import GONE, Context
from joycap_vllm.gateway.health import health_routes
from joycap_vllm.gateway.locks import Locks
from joycap_vllm.gateway.login import login_routes
from joycap_vllm.gateway.metrics import Metrics
from joycap_vllm.gateway.ollama.door import ollama_routes
from joycap_vllm.gateway.openai import openai_routes
from joycap_vllm.gateway.pages import static_routes
from joycap_vllm.gateway.reply import Refusal, RefusedError, refusal_of, refused
from joycap_vllm.gateway.review.door import review_routes
from joycap_vllm.gateway.studio.door import studio_routes
from joycap_vllm.gateway.toolkit.door import toolkit_routes

_BELOW_V1 = ("/chat/completions", "/models", "/files", "/batches")


def make_app(context: Context) -> Starlette:
    """The gateway as an ASGI application."""
    metrics = Metrics(context)
    completions = context.completions or Completions(context.captioner)
    routes = [
        # Before the gateway's own /health, which AI-Toolkit's page would not understand.
        *(toolkit_routes(context, completions) if context.ai_toolkit else ()),
        *ollama_routes(context, completions),
        *openai_routes(context, completions),
        *batch_routes(context),
        *studio_routes(context),
        *review_routes(context),
        *static_routes(),
        *login_routes(context),
        *health_routes(context),
        metrics.route(),
    ]
    metrics.name_doors(routes)
    context.captioner.on_outcome = metrics.note_outcome
    return Starlette(
        routes=routes,
        middleware=[Middleware(Locks, context=context, metrics=metrics)],
        exception_handlers={
            RefusedError: _on_refused,
            JoycapError: _on_joycap,
            HTTPException: _on_http,
            ClientDisconnect: _on_gone,
            Exception: _on_fault,
        },
    )


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - as registered
    return refused(error.refusal, request.scope["path"])


async def _on_joycap(request: Request, error: Exception) -> Response:
    assert isinstance(error, JoycapError)  # noqa: S101 - as registered
    return refused(refusal_of(error), request.scope["path"])


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    headers, path = tuple((error.headers or {}).items()), request.scope["path"]
    told = error.detail
    if error.status_code == 404 and path.startswith(_BELOW_V1):
        told = f"nothing is at {path}; a base URL of the OpenAI API ends in /v1, as in /v1{path}"
    return refused(Refusal(error.status_code, told, headers=headers), path)


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE)


async def _on_fault(request: Request, __: Exception) -> Response:
    fault = Refusal(500, "a fault in the gateway; its log says more", "server_error")
    return refused(fault, request.scope["path"])
