"""What a running job tells other terminals: a small file beside its journal, and how it is read.

`status-<writer>.json`, with the writer's name as its journal has it, is written about once a second
and read by nobody but `joycap status`; a job goes on as well where it cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.errors import JoycapError
from joycap_vllm.job.progress import Progress
from joycap_vllm.job.stop import Stop

_EVERY = 1.0  # seconds between two writes
_LOOK = 0.25  # seconds between two looks of those who show the progress
_LAST_WRITE = 2.0  # seconds that the end of a job may wait for a slow disk


class StatusFile:
    """Keeps a writer's status file; no failure to do so is ever raised.

    Files are written by a thread of their own, since a folder may be far away or hang.

    Args:
        state: The job's state folder.
        journal: The writer's journal, whose lock says that it is at work.
        urls: The endpoints.
        shard: The writer's part of the job, and how many there are.
    """

    def __init__(
        self,
        state: Path,
        journal: Path,
        *,
        urls: tuple[str, ...] = (),
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        writer = journal.stem.removeprefix("journal-")
        self.path = state / f"status-{writer}.json"
        self._facts: dict[str, Any] = {
            "v": 1,
            "writer": writer,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
            "shard": list(shard),
            "urls": list(urls),
        }
        self._due = 0.0
        self._latest = b""
        self._news = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._keep, name="joycap-status", daemon=True)
        self._thread.start()

    def write(self, progress: Progress) -> None:
        """Shows the figures, at most once a second; returns at once."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY
            self._put(progress, "")

    def close(self, progress: Progress, ended: str) -> None:
        """Shows the last figures.

        Args:
            progress: The job's progress.
            ended: How it ended: `done`, `interrupted`, or the error.
        """
        self._over = True
        self._put(progress, ended)
        self._thread.join(_LAST_WRITE)

    def _put(self, progress: Progress, ended: str) -> None:
        figures = progress.figures().as_json()
        with contextlib.suppress(TypeError):  # text that is no Unicode
            self._latest = orjson.dumps(
                self._facts | {"t": time.time(), "ended": ended, "figures": figures}
            )
        self._news.set()

    def _keep(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.joycap-tmp")
        over = False
        while not over:
            self._news.wait()
            self._news.clear()
            over = self._over
            with contextlib.suppress(OSError):
                beside.write_bytes(self._latest)
                beside.replace(self.path)


@contextlib.asynccontextmanager
async def told(
    progress: Progress, stop: Stop, status: StatusFile, watch: Callable[[Progress], None]
) -> AsyncIterator[None]:
    """Shows the progress several times a second, from before the first request to the end.

    Args:
        progress: The job's progress.
        stop: Says whether the job was interrupted.
        status: Is written, and closed at the end.
        watch: Is called with the progress.
    """

    async def look() -> None:
        while True:
            watch(progress)
            status.write(progress)
            await asyncio.sleep(_LOOK)

    looking = asyncio.create_task(look())
    ended = "done"
    try:
        yield
    except Exception as error:
        ended = str(error) if isinstance(error, JoycapError) else repr(error)
        raise
    except BaseException:
        ended = "interrupted"
        raise
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        status.close(progress, "interrupted" if stop.asked else ended)
