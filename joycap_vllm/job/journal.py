"""The journal: the append-only record of outcomes, the only truth about what is done.

Each process appends to a file of its own, which it locks, and reads those of all. A record counts
once it is synced. The first record of a quiet time is synced at once, later ones in groups: 64, or
what came within 20 ms of the last sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import OutputError
from joycap_vllm.fleet import Usage
from joycap_vllm.images import Prepared
from joycap_vllm.job.scan import VERSION

_GROUP = 64
_WAIT = 0.02  # seconds between two syncs that are not full
_OPEN = os.O_RDWR | os.O_CLOEXEC
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

_Waiting = tuple[bytes, "asyncio.Future[None]"]  # a line, and who is told that it is synced


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
    record: dict[str, Any] = {
        "v": VERSION,
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
        "usage": _tokens(outcome.usage),
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


def _tokens(usage: Usage) -> dict[str, int]:
    return {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion}


def _facts(image: Prepared) -> dict[str, Any]:
    return {
        "width": image.width,
        "height": image.height,
        "bytes": image.size,
        "sha256": image.sha256,
    }


class Journal:
    """This process's own file, locked as long as it is open; use it as an async context manager.

    A thread of its own writes and syncs, so that what becomes of a task that waits for its record
    changes nothing about the others'.

    Args:
        folder: The job's state folder; made if it is not there.

    Raises:
        OutputError: On making: no file can be kept there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file, self.path = _own_file(folder)
        self._good = _cut_torn_tail(self._file)
        self._torn = False  # whether the file may be longer than what is good of it
        self._pending: list[_Waiting] = []
        self._closing = False
        self._news = threading.Condition()

    async def __aenter__(self) -> Journal:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._work, name="joycap-journal", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._news:
            self._closing = True
            self._news.notify()
        await self._ended

    def earlier_writer(self) -> Path | None:
        """The journal of a process that came before this one and is still at work, if any."""
        for path in sorted(self.folder.glob("journal-*.jsonl"), key=_number):
            if path == self.path:
                return None
            if _is_locked(path):
                return path
        return None

    async def append(self, line: bytes) -> None:
        """Adds a record, and returns once it is synced.

        Raises:
            OutputError: The disk is full or broken; what was synced before is kept.
        """
        synced = self._loop.create_future()
        with self._news:
            if self._closing:
                raise OutputError(f"the journal {self.path} is closed")
            self._pending.append((line, synced))
            if len(self._pending) in (1, _GROUP):
                self._news.notify()
        await synced

    def _work(self) -> None:
        """What the thread does, until the journal is closed and nothing is left to write."""
        quiet = 0.0  # the moment from which a record alone is worth a sync
        while group := self._next_group(quiet):
            error = self._write(b"".join(line for line, _ in group))
            quiet = time.monotonic() + _WAIT
            self._call(_settle, group, error)
        os.close(self._file)
        self._call(_settle, [(b"", self._ended)], None)

    def _next_group(self, quiet: float) -> list[_Waiting]:
        with self._news:
            self._news.wait_for(lambda: self._pending or self._closing)
            self._news.wait_for(
                lambda: len(self._pending) >= _GROUP or self._closing,
                max(quiet - time.monotonic(), 0.0),
            )
            group, self._pending = self._pending, []
        return group

    def _call(self, *call: Any) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that has ended waits for nothing
            self._loop.call_soon_threadsafe(*call)

    def _write(self, data: bytes) -> OutputError | None:
        """Writes behind what is good; what stays of a write that fails is cut off, at the latest
        before the next one."""
        left, at = memoryview(data), self._good
        try:
            if self._torn:
                os.ftruncate(self._file, self._good)
            self._torn = True
            while left:
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written
            os.fdatasync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._good)
                self._torn = False
            return OutputError(
                f"the journal {self.path} cannot be written: {error.strerror}; what it holds is "
                "safe, and the same command goes on from there",
                error.errno,
            )
        self._torn = False
        self._good = at
        return None


def _settle(group: list[_Waiting], error: OutputError | None) -> None:
    for _, synced in group:
        if synced.done():  # whoever waited was cancelled
            continue
        if error is None:
            synced.set_result(None)
        else:
            synced.set_exception(error)


def _own_file(folder: Path) -> tuple[int, Path]:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = folder / f"journal-{host}-{number}.jsonl"
            file = _taken(path)
            if file is not None:
                return file, path
    except OSError as error:
        raise OutputError(
            f"no journal can be kept in {folder}: {error.strerror}; --journal names another folder",
            error.errno,
        ) from error
    raise OutputError(f"too many journals in {folder}")


def _taken(path: Path) -> int | None:
    """The file, open and locked, or None where it is somebody else's.

    Where the file system has no locks, nobody can tell whether a journal is still written to, so
    only a new one will do.
    """
    try:
        file, new = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        try:
            file, new = os.open(path, _OPEN), False
        except PermissionError:
            return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not (new and error.errno in _NO_LOCKS):
            os.close(file)
            if error.errno in (errno.EWOULDBLOCK, *_NO_LOCKS):
                return None
            raise
    if new:
        _sync_folders(path)
    return file


def _sync_folders(path: Path) -> None:
    """Makes a new file, and the folder that may be new too, outlast a power cut."""
    for folder in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):  # not every file system can
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


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
    return end


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("-")[2]
    return (int(digits) if digits.isdecimal() else 0, path.name)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
