"""How the gateway is: alive, able to caption, ready for more."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from joycap_vllm.gateway.context import JSON, Context, may_know


def health_routes(context: Context) -> list[BaseRoute]:
    """`/live` restarts a gateway that hangs, `/ready` keeps work away, `/health` is for tools."""

    async def live(_: Request) -> Response:
        """200 for as long as the process answers, whatever its servers do."""
        return _told({"status": "alive"})

    async def ready(_: Request) -> Response:
        """503 while a caption would not be made: the servers are away, or the gateway ends."""
        if context.gate.draining:
            return _told({"status": "draining"}, 503)
        away = bool(context.captioner.fleet.state)
        return _told({"status": "unavailable" if away else "ready"}, 503 if away else 200)

    async def health(request: Request) -> Response:
        """503 while no endpoint can be reached; why is told to those who may ask for work."""
        why = context.captioner.fleet.state
        if why and not may_know(request, context):
            return _told({"status": "unavailable"}, 503)
        return _told({"status": "unavailable", "why": why}, 503) if why else _told({"status": "ok"})

    return [
        Route("/live", live, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
    ]


def _told(body: dict[str, str], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type=JSON)
