"""What stands before every door: who may come in, from where, and how much at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from joycap_vllm.gateway import origins
from joycap_vllm.gateway.context import CALLER
from joycap_vllm.gateway.dress import dressed
from joycap_vllm.gateway.gate import FAILURES, Buckets, Reading, too_often
from joycap_vllm.gateway.keys import Key
from joycap_vllm.gateway.login import cookie_key
from joycap_vllm.gateway.pages import ACCOUNT
from joycap_vllm.gateway.reply import Refusal, refused

if TYPE_CHECKING:
    from joycap_vllm.gateway.context import Context
    from joycap_vllm.gateway.metrics import Metrics

# What anybody may ask, since it tells nothing and changes nothing.
OPEN = frozenset({"/health", "/live", "/ready", "/login", "/logout"})
_STATIC = "/static/"
_UPLOADS = frozenset({"/v1/files"})
_NO_WORK = frozenset({"/login", "/logout"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# What keeps a supervisor from ending the gateway, and has a count of its own, or asks for no key.
_ALWAYS = frozenset({"/live", "/ready", "/login", "/logout"})
_TOO_MANY_KEYS = "too many wrong keys came from this address; try again later"
_BURST = 10.0  # seconds' worth of requests that may come at once


class Locks:
    """ASGI middleware that refuses before anything is read.

    Args:
        app: What is behind.
        context: What the gateway stands on.
        metrics: Counts what comes and how it ends.
    """

    def __init__(self, app: ASGIApp, context: Context, metrics: Metrics) -> None:
        rate = context.limits.rate
        self._app = app
        self._context = context
        self._metrics = metrics
        self._buckets = None if rate is None else Buckets(rate, rate * _BURST)
        self._failures = Buckets(*FAILURES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict[bytes, bytes](scope["headers"])
        origin = headers.get(b"origin", b"")
        trusted = origin.decode("latin-1") in self._context.allow_origins
        answer = _Answer(send, scope["path"], origin if trusted else b"")
        began = time.perf_counter()
        try:
            await self._pass(scope, headers, trusted, receive, answer)
        except asyncio.CancelledError:
            # A second signal cuts off what is in flight, and uvicorn would call that a fault.
            cut_off = self._context.gate.refusal(self._context.limits.queue)
            if cut_off is not None and self._context.gate.draining and not answer.status:
                await refused(cut_off, scope["path"])(scope, receive, answer)
            raise
        except Exception:
            # Starlette answers faults outside of all middleware, where nothing dresses them.
            if not answer.status:
                fault = Refusal(500, "a fault in the gateway; its log says more", "server_error")
                await refused(fault, scope["path"])(scope, receive, answer)
            raise
        finally:
            self._metrics.note(scope, answer.status, time.perf_counter() - began)

    async def _pass(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        trusted: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        if trusted and origins.is_preflight(headers, scope["method"]):
            await _answer_preflight(headers, send)
            return
        refusal = self._strange(scope, headers, trusted)
        if refusal is None:
            key, refusal = self._let_in(scope, headers, trusted)
            refusal = refusal or self._too_much(scope, key)
        if refusal is not None:
            if refusal.status == 401 and _wants_page(scope, headers):
                refusal = _to_login(scope)
            await refused(refusal, scope["path"])(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")[:20]
        said = int(length) if length.isdigit() else 0
        upload, context = scope["path"] in _UPLOADS, self._context
        reading = Reading(receive, context.limits, context.gate, upload=upload, said=said)
        with self._inside(scope, reading):
            await self._app(scope, reading, send)

    def _strange(self, scope: Scope, headers: dict[bytes, bytes], trusted: bool) -> Refusal | None:
        """Refuses what a browser sends for a page that has no business here."""
        context, host = self._context, headers.get(b"host", b"").decode("latin-1")
        # With keys a page whose name points here gets nothing: it has no key, and the browser
        # keeps the cookie to the name under which it was given.
        strict = bool(context.allow_hosts) or not context.keys
        if strict and host and not origins.known_host(host, context.allow_hosts):
            name = host.encode("ascii", "replace").decode()[:100]
            return Refusal(
                403, f"{name} is no name of this gateway; --allow-host lets it in", code="host"
            )
        if not trusted and origins.is_foreign(headers, scope["method"]):
            return Refusal(
                403,
                "a web page of another origin asks; --allow-origin names those that may",
                code="origin",
            )
        return None

    def _let_in(
        self, scope: Scope, headers: dict[bytes, bytes], trusted: bool
    ) -> tuple[Key | None, Refusal | None]:
        context, path = self._context, scope["path"]
        if not context.keys:
            return None, None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = context.keys.find(given.strip()) if scheme.lower() == b"bearer" else None
        if key is None and not trusted:
            key = cookie_key(scope, headers, context)
            scope[ACCOUNT] = key.name if key else ""
            if key is not None and scope["method"] not in _SAFE and not origins.is_own(headers):
                return key, Refusal(403, "only the gateway's own pages may use its cookie")
        if key is not None:
            scope[CALLER] = key
        elif path not in OPEN and not path.startswith(_STATIC):
            return None, self._unknown(scope, given)
        elif given and path not in _ALWAYS and (wait := self._failures.take(_address(scope))):
            return None, too_often(wait, _TOO_MANY_KEYS)
        return key, None

    def _unknown(self, scope: Scope, given: bytes) -> Refusal:
        """Wrong keys are counted, and right ones let in however many wrong ones came before."""
        if given and (wait := self._failures.take(_address(scope))):
            return too_often(wait, _TOO_MANY_KEYS)
        return Refusal(401, "send one of the gateway's keys as a bearer token")

    def _too_much(self, scope: Scope, key: Key | None) -> Refusal | None:
        if not _is_work(scope):
            return None
        refusal = self._context.gate.refusal(self._context.limits.queue)
        if refusal is not None or self._buckets is None:
            return refusal
        who = f"key {key.name}" if key else f"at {_address(scope)}"
        if wait := self._buckets.take(who):
            rate = self._context.limits.rate
            return too_often(wait, f"more than {rate:g} requests a second; ask again later")
        return None

    @contextmanager
    def _inside(self, scope: Scope, reading: Reading) -> Iterator[None]:
        gate, work = self._context.gate, _is_work(scope)
        gate.inside += work
        try:
            yield
        finally:
            gate.inside -= work
            reading.release()


class _Answer:
    """An ASGI `send` that adds the headers which every answer has.

    Args:
        send: What sends.
        path: What is answered.
        origin: The page of another origin that may read it; empty is none.

    Attributes:
        status: What was sent; 0 before.
    """

    __slots__ = ("_origin", "_path", "_send", "status")

    def __init__(self, send: Send, path: str, origin: bytes) -> None:
        self._send = send
        self._path = path
        self._origin = origin
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = dressed(message["headers"], self._path)
            if self._origin:
                message["headers"] += origins.sharing_headers(self._origin)
        await self._send(message)


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("?",))[0])


def _is_work(scope: Scope) -> bool:
    return scope["method"] not in _SAFE and scope["path"] not in _NO_WORK


def _wants_page(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    return scope["method"] in ("GET", "HEAD") and b"text/html" in headers.get(b"accept", b"")


def _to_login(scope: Scope) -> Refusal:
    query = scope["query_string"].decode("latin-1")
    wanted = scope["path"] + (f"?{query}" if query else "")
    where = f"/login?next={quote(wanted, safe='/')}"
    return Refusal(303, "log in first", headers=(("Location", where),))


async def _answer_preflight(headers: dict[bytes, bytes], send: Send) -> None:
    told = origins.preflight_headers(headers)
    await send({"type": "http.response.start", "status": 204, "headers": told})
    await send({"type": "http.response.body", "body": b""})
