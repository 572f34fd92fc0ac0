"""What the tests of the gateway's locks share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson

from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.server import GatewayServer, make_server

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def body(messages: Any) -> bytes:
    return orjson.dumps({"model": "joycaption", "messages": messages})


@contextlib.asynccontextmanager
async def asking(context: Context, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application itself, whose requests come from this machine."""
    transport = httpx2.ASGITransport(make_app(context))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8080", **options
    ) as client:
        yield client


@contextlib.asynccontextmanager
async def served(context: Context, base: Any = None) -> AsyncIterator[tuple[str, GatewayServer]]:
    """The gateway's own server on a free port: its address, and the server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(make_app(context), context, keep_alive=5)
    if base is not None:
        server.config.http = base
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()


class Line:
    """A connection of which every byte is told.

    Args:
        url: The gateway's address.
    """

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])

    async def __aenter__(self) -> Line:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the gateway closes."""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read(-1)
        return b""

    async def answer(self) -> bytes:
        """A head and what comes with it."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def rest_until(self, words: bytes) -> bytes:
        """All that comes up to these words."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(words)
