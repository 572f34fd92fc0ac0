"""The journal: the append-only record of outcomes, the only truth about what is done.

Each process appends to a file of its own, which it locks, and reads those of all. A record counts
once it is synced. The first record of a quiet time is synced at once, later ones in groups: 64, or
what came within 20 ms of the last sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import OutputError
from joycap_vllm.images import Prepared
from joycap_vllm.job.lock import is_locked

_VERSION = 1
_GROUP = 64
_WAIT = 0.02  # seconds between two syncs that are not full


def make_line(
    *,
    key: str,
    prompt: str,
    fingerprint: str,
    outcome: Outcome,
    image: Prepared | None,
    asked: str | None,
    stem: str | None,
    now: float,
) -> bytes:
    """The record of one outcome; `trimmed` stands in it only where the caption was trimmed.

    Args:
        key: The image's key.
        prompt: The prompt's name.
        fingerprint: The prompt's fingerprint.
        outcome: How the task ended.
        image: The image, if it could be read.
        asked: The exact text, where it differs from image to image.
        stem: The stem of its sidecars, where it is not the file's own.
        now: Seconds since 1970.
    """
    record = {
        "v": _VERSION,
        "key": key,
        "prompt": prompt,
        "fp": fingerprint,
        "outcome": outcome.outcome,
        "caption": outcome.caption,
        "glitch": outcome.glitch,
        "why": outcome.why,
        "attempts": [_attempt(attempt) for attempt in outcome.attempts],
        "finish": outcome.finish,
        "model": outcome.model,
        "usage": asdict(outcome.usage),
        "image": None if image is None else _facts(image),
        "t": now,
    }
    rare = {"asked": asked, "stem": stem, "trimmed": outcome.trimmed or None}
    record |= {name: value for name, value in rare.items() if value is not None}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "glitch": attempt.glitch,
        "finish": attempt.finish,
        "seed": attempt.seed,
        "temperature": attempt.temperature,
        "endpoint": attempt.endpoint,
        "ms": attempt.milliseconds,
        "error": attempt.error or None,
    }


def _facts(image: Prepared) -> dict[str, Any]:
    return {
        "width": image.width,
        "height": image.height,
        "bytes": image.size,
        "sha256": image.sha256,
    }


class Journal:
    """This process's own file, locked as long as it is open; use it as an async context manager.

    Args:
        folder: The job's state folder; made if it is not there.

    Raises:
        OutputError: On making: no file can be kept there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file, self.path = _own_file(folder)
        self._good = _cut_torn_tail(self._file)
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="joycap-journal")

    async def __aenter__(self) -> Journal:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(OutputError):
            await self._flush()
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
        self._thread.shutdown()
        os.close(self._file)

    def earlier_writer(self) -> Path | None:
        """The journal of a process that came before this one and is still at work, if any."""
        for path in sorted(self.folder.glob("journal-*.jsonl"), key=_number):
            if path == self.path:
                return None
            if is_locked(path):
                return path
        return None

    async def append(self, line: bytes) -> None:
        """Adds a record, and returns once it is synced.

        Raises:
            OutputError: The disk is full or broken; what was synced before is kept.
        """
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((line, synced))
        if len(self._pending) >= _GROUP:
            self._ready.set()
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_soon())
        await asyncio.shield(synced)

    async def _flush_soon(self) -> None:
        while self._pending:
            self._ready.clear()
            with contextlib.suppress(OutputError):
                await self._flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), _WAIT)

    async def _flush(self) -> None:
        group, self._pending = self._pending, []
        if not group:
            return
        data = b"".join(line for line, _ in group)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.shield(loop.run_in_executor(self._thread, self._write, data))
        except OutputError as error:
            for _, synced in group:
                if not synced.done():
                    synced.set_exception(error)
                    synced.exception()
            raise
        for _, synced in group:
            if not synced.done():
                synced.set_result(None)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._good)
                os.lseek(self._file, self._good, os.SEEK_SET)
            raise OutputError(
                f"the journal {self.path} cannot be written: {error.strerror}; what it holds is "
                "safe, and the same command goes on from there",
                error.errno,
            ) from error
        self._good += len(data)


def _own_file(folder: Path) -> tuple[int, Path]:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = folder / f"journal-{host}-{number}.jsonl"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            return file, path
    except OSError as error:
        raise OutputError(
            f"no journal can be kept in {folder}: {error.strerror}; --journal names another folder",
            error.errno,
        ) from error
    raise OutputError(f"too many journals in {folder}")


def _cut_torn_tail(file: int) -> int:
    """Cuts what follows the last whole line, and returns the length that is left."""
    size = os.lseek(file, 0, os.SEEK_END)
    end, block = size, 1 << 16
    while end > 0:
        start = max(0, end - block)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return os.lseek(file, end, os.SEEK_SET)


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("-")[2]
    return (int(digits) if digits.isdecimal() else 0, path.name)
