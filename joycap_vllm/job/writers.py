"""Small writes beside the event loop, many for each step into another thread.

A step to a thread and back costs more than the write of a sidecar, and many threads in one folder
wait for each other. So one thread takes all that is there, and another joins it only where more
piles up, as on a slow disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_AT_ONCE = 32  # writes that are told of together
_PILED_UP = 64  # waiting writes for each thread that call for one more


@dataclass(eq=False, slots=True)
class _Write:
    work: Callable[[], None]
    done: asyncio.Future[None]
    error: BaseException | None = None


class Writers:
    """Threads that write; made and used within one event loop.

    Args:
        most: Threads at most.
    """

    def __init__(self, most: int = 8) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="joycap-write")
        self._most = most
        self._active = 0
        self._waiting: deque[_Write] = deque()

    async def run(self, work: Callable[[], None]) -> None:
        """Calls `work` in a thread; one that is cancelled before its turn is left out.

        Raises:
            What `work` raises.
        """
        write = _Write(work, self._loop.create_future())
        self._waiting.append(write)
        if self._active < self._most and len(self._waiting) > _PILED_UP * self._active:
            self._begin()
        await write.done

    def close(self) -> None:
        """Waits for what has begun."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        self._active += 1
        self._threads.submit(self._work)

    def _work(self) -> None:
        while self._waiting:
            written: list[_Write] = []
            while len(written) < _AT_ONCE:
                try:
                    write = self._waiting.popleft()
                except IndexError:
                    break
                written.append(write)
                if write.done.cancelled():
                    continue
                try:
                    write.work()
                except BaseException as error:
                    write.error = error
            self._loop.call_soon_threadsafe(_tell, written)
        self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        self._active -= 1
        if self._waiting and not self._active:  # it came after the last look
            self._begin()


def _tell(written: list[_Write]) -> None:
    for write in written:
        if write.done.done():
            continue
        if write.error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(write.error)
