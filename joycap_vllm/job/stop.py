"""The way out of a job."""

from __future__ import annotations

import asyncio


class Stop:
    """The way out: once for a clean end, twice for the quick one."""

    def __init__(self) -> None:
        self.asked = 0
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        """Ask to stop."""
        self.asked += 1
        self._changed.set()

    async def twice(self) -> None:
        """Returns when it was asked for a second time."""
        while self.asked < 2:
            await self._changed.wait()
            self._changed.clear()
