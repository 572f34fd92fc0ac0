"""uvicorn for tests: an application on a free port, which ends as soon as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from fault_server import let_in_no_more

_GRACE = 1.0  # seconds for what is in flight at the end


class PromptServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it may end, and looks again in its shutdown: half a
    second for each test of a gateway and the server behind it."""

    def __init__(self, app: Any) -> None:
        super().__init__(uvicorn.Config(app, lifespan="off", log_level="critical"))
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        """Serves until `end`."""
        await self.on_tick(0)
        await self._told.wait()

    def end(self) -> None:
        """Has it end; for the thread of its loop."""
        self._told.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, in no more time than it takes."""
        for server in self.servers:
            await let_in_no_more(server)
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(0.001)  # it keeps no event for that
        for task in self.server_state.tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def serving_app(app: Any) -> AsyncIterator[str]:
    """Serves an application on a free port; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = PromptServer(app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        await task
