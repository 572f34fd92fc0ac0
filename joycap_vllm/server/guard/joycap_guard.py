"""Asks for the API key wherever vLLM does not.

vLLM's own `--api-key` guards what lies below /v1; `/invocations` captions, `/tokenize` reads and
control calls act without it. vLLM is given this with `--middleware joycap_guard.Guard`, and finds
it on PYTHONPATH. It stands on the standard library alone, since it may run in vLLM's own image.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

# What monitors and load balancers ask; none of them tells of pictures, prompts or captions.
OPEN = frozenset({"/health", "/ping", "/metrics", "/version"})


class Guard:
    """ASGI middleware that refuses all paths but `OPEN` to who does not send the key.

    Args:
        app: vLLM's application.

    Raises:
        RuntimeError: VLLM_API_KEY is not set, so that there is nothing to compare with.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._key = os.environ.get("VLLM_API_KEY", "").encode()
        if not self._key:
            raise RuntimeError("joycap's guard needs the key in VLLM_API_KEY")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Hands a request on, or answers 401."""
        if scope["type"] not in ("http", "websocket") or self._may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = json.dumps({"error": "Unauthorized"}).encode()
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _may(self, scope: dict[str, Any]) -> bool:
        if scope.get("method") == "OPTIONS" or scope["path"] in OPEN:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)
