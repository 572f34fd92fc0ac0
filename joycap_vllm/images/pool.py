"""Reading and preparing off the event loop, never more at once than the pool has workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from PIL import Image

from joycap_vllm.images.recipe import Limits, Prepared, Recipe, prepare
from joycap_vllm.images.wires import Wire


class ImagePool:
    """A bounded pool of threads; Pillow and libvips work outside the interpreter's lock.

    Processes were measured beside it: no more pictures a second from two cores, where the event
    loop waits about a millisecond less for the lock.

    Args:
        workers: Images prepared at once; None takes one more than there are cores, since reading
            and handing over leave gaps, and 17 at most.
        wire: How the prepared picture is encoded.
        limits: What is refused.
        recipe: How exactly it is prepared.
    """

    def __init__(
        self,
        workers: int | None = None,
        wire: Wire = "jpeg",
        limits: Limits | None = None,
        recipe: Recipe = "default",
    ) -> None:
        self.workers = workers or min(16, os.cpu_count() or 1) + 1
        self.wire = wire
        self.recipe = recipe
        self._limits = limits or Limits()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="joycap-image")

    async def prepare(self, read: Callable[[], bytes | Image.Image]) -> Prepared:
        """Calls `read` and prepares what it returns, both in a worker.

        Raises:
            ImageError: The picture cannot be used.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: prepare(read(), self.wire, self._limits, self.recipe)
        )

    def close(self) -> None:
        """Ends the workers, without waiting for one that hangs at a dead disk."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> ImagePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
