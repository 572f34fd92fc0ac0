"""The web application: every door of the gateway, behind the same locks."""

from __future__ import annotations

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.context import GONE, JSON, Context
from joycap_vllm.gateway.locks import Locks
from joycap_vllm.gateway.openai import openai_routes
from joycap_vllm.gateway.pages import static_routes
from joycap_vllm.gateway.reply import Refusal, RefusedError, refusal_of, refused
from joycap_vllm.gateway.review import review_routes


def make_app(context: Context) -> Starlette:
    """The gateway as an ASGI application."""

    async def health(_: Request) -> Response:
        """503 with the reason while no endpoint can be reached."""
        why = context.captioner.fleet.state
        body = {"status": "unavailable", "why": why} if why else {"status": "ok"}
        return Response(orjson.dumps(body), 503 if why else 200, media_type=JSON)

    return Starlette(
        routes=[
            *openai_routes(context),
            *review_routes(context),
            *static_routes(),
            Route("/health", health, methods=["GET"]),
        ],
        middleware=[Middleware(Locks, context=context)],
        exception_handlers={
            RefusedError: _on_refused,
            JoycapError: _on_joycap,
            HTTPException: _on_http,
            ClientDisconnect: _on_gone,
            Exception: _on_fault,
        },
    )


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - as registered
    return refused(error.refusal)


async def _on_joycap(_: Request, error: Exception) -> Response:
    assert isinstance(error, JoycapError)  # noqa: S101 - as registered
    return refused(refusal_of(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    return refused(Refusal(error.status_code, error.detail))


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE)


async def _on_fault(_: Request, __: Exception) -> Response:
    return refused(Refusal(500, "a fault in the gateway; its log says more", "server_error"))
