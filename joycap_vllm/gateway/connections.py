"""Connections that cost more than they bring: too many, silent ones, and heads without an end.

uvicorn closes a connection that is idle between two requests, but waits for ever for a first
request, and for the rest of a head.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from joycap_vllm.gateway.limits import Limits

_MOST_HEAD = 64 << 10  # bytes; what h11 takes, and httptools has no limit of its own
# Java's client offers HTTP/2 with its first request, and httptools then loses the request's body.
_OFFER = re.compile(rb"\r\nupgrade(?=:[ \t]*h2c\b)", re.IGNORECASE)


def _closing(status: str, message: str) -> bytes:
    body = b'{"error":{"message":"%b","type":"invalid_request_error"}}' % message.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body)


_TOO_MANY = _closing("503 Service Unavailable", "the gateway has too many connections")
_TOO_SLOW = _closing("408 Request Timeout", "the request's head came too slowly")
_TOO_LONG = _closing("431 Request Header Fields Too Large", "the request's head is too long")


def guarded(limits: Limits, base: type[asyncio.Protocol] = AutoHTTPProtocol) -> type[Any]:
    """uvicorn's HTTP protocol, with limits on connections and heads.

    Args:
        limits: `connections` and `head` of them.
        base: One of uvicorn's two.
    """
    return type("Guarded", (_Guard, base), {"limits": limits})


class _Guard(asyncio.Protocol):
    """Stands before one of uvicorn's protocols, whose attributes these are."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any

    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes since the latest request began that are no part of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(_TOO_MANY)
        else:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        whole = before is None or not before.more_body
        if whole and b"h2c" in data[:_MOST_HEAD]:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"\r\nx-offer", head) + end + rest
        super().data_received(data)
        if self.cycle is not before:
            self._head = 0
            self._stop()
            return
        # Else it is a body's part, a head's, or what still comes of a body nobody waits for.
        if whole or before.response_complete:
            self._start()
            self._head += len(data)
            if self._head > (_MOST_HEAD if whole else 2 * self.limits.body):
                self._refuse(_TOO_LONG if whole else b"")

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.head, self._too_late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start()  # an answer is under way, and the head is that of the next request
        else:
            unread = self.cycle is not None and self.cycle.more_body
            self._refuse(b"" if unread else _TOO_SLOW)

    def _refuse(self, words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(words)
            self.transport.close()
