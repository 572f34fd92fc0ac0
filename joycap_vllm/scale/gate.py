"""How many images one process works on at once, whoever hands them to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Gate:
    """Lets images begin, first come first served, while fleet and pool have use for them; use it as
    an async context manager around each.

    Without it the pictures of a thousand rows would be prepared and held, long before their turn.

    Args:
        room: Images that may be under way at this moment; asked for whenever one begins or ends.
    """

    def __init__(self, room: Callable[[], float]) -> None:
        self.under_way = 0
        self._room = room
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._waiting or self.under_way >= max(1.0, self._room()):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # its turn had come
                raise
        else:
            self.under_way += 1

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self.under_way -= 1
        while self._waiting and self.under_way < max(1.0, self._room()):
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                turn.set_result(None)
