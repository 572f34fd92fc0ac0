"""What stands before every door: who may come in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import allowed
from joycap_vllm.gateway.reply import Refusal, refused

OPEN = frozenset({"/health"})  # paths that anybody may ask


class Locks:
    """ASGI middleware that refuses before anything is read.

    Args:
        app: What is behind.
        context: What the gateway stands on.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on, or refuses it."""
        if scope["type"] == "http" and (refusal := self._refusal(Request(scope))) is not None:
            await refused(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> Refusal | None:
        if request.url.path not in OPEN and not allowed(request, self._context.keys):
            return Refusal(401, "send one of the gateway's keys as a bearer token")
        return None
