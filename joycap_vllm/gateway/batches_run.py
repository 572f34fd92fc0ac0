"""Runs one batch: its requests through the fleet, its results to a journal, then to files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import orjson

from joycap_vllm.errors import OutputError
from joycap_vllm.gateway.batches_later import Later
from joycap_vllm.gateway.batches_lines import (
    Line,
    Place,
    answered,
    entry,
    input_lines,
    read_entries,
    read_line,
    results,
    unanswered,
)
from joycap_vllm.gateway.batches_store import Batch, Store
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.reply import Refusal, Whole
from joycap_vllm.job import Journal
from joycap_vllm.job.batch import MOST_REQUESTS

MOST_LINE = 32 << 20  # bytes; as of a live request
_LOOK = 0.05  # seconds between two looks for room and for a reason to end
_LATER = frozenset({429, 503})  # statuses that say nothing about the request
_MOST_PUT_OFF = 8  # requests that wait for a full server beside those that have room
_GRACE = 5.0  # seconds that requests in flight get when the gateway ends

_End = Literal["", "expired", "cancelled", "stopped"]


class BatchRun:
    """One batch on its way to its end.

    Args:
        store: Where it is kept.
        batch: The batch; its counts and status change as it runs.
        completions: Who answers.
        later: Its lines that were put off in earlier rounds.
    """

    def __init__(
        self, store: Store, batch: Batch, completions: Completions, later: Later | None = None
    ) -> None:
        self.batch = batch
        self.stopping = False
        self._store = store
        self._completions = completions
        self._later = Later() if later is None else later
        self._folder = store.folder(batch.id)
        self._active: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._seen: set[str] = set()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Runs it to its end, unless another gateway does, this one stops, or lines were put off;
        it goes on where it is run again.

        Raises:
            OutputError: Something cannot be written; what was synced is kept.
        """
        async with Journal(self._folder) as journal:
            if journal.earlier_writer() is not None or self._is_ended():
                return
            done, self._seen = await asyncio.to_thread(read_entries, self._folder)
            self._count(done)
            if not self._input.exists():
                self._fail("invalid_file", "the input file is gone")
                return
            if not self.batch.shown["request_counts"]["total"] and not await self._begin():
                return
            try:
                end = await self._feed(journal, done)
            finally:
                for task in self._active:
                    task.cancel()
                await asyncio.gather(*self._active, return_exceptions=True)
            if end == "stopped":
                return
            if self._later and not end:
                self._later.rest()
                self._store.save(self.batch)
                return
            await self._finish(end)
        self._store.forget_results(self.batch.id)

    def _is_ended(self) -> bool:
        """Whether another gateway ended it before the journal was free."""
        now = self._store.batch(self.batch.id)
        return now is None or now.ended

    async def _begin(self) -> bool:
        shown, path = self.batch.shown, self._input
        try:
            total = await asyncio.to_thread(lambda: sum(1 for _ in input_lines(path, MOST_LINE)))
        except OSError as error:
            return self._fail("invalid_file", f"the input file cannot be read: {error.strerror}")
        if not total:
            return self._fail("empty_file", "the input file holds no request")
        if total > MOST_REQUESTS:
            why = f"the input file holds {total} requests, over the limit of {MOST_REQUESTS}"
            return self._fail("too_many_requests", why)
        shown["request_counts"]["total"] = total
        if shown["status"] == "validating":
            self.batch.turn("in_progress")
        self._store.save(self.batch)
        return True

    async def _feed(self, journal: Journal, done: dict[int, Place]) -> _End:
        """Begins requests while there is room, and waits for the last."""
        end: _End = ""
        self._later.begin()
        for number, raw in self._left(done):
            while not (end := self._end()) and not self._room():
                await self._wait()
            if end:
                break
            line = read_line(number, raw, self._seen)
            task = asyncio.create_task(self._line(journal, number, line))
            self._active.add(task)
            task.add_done_callback(self._ended)
        while self._active and not (end := end or self._end()):
            await self._wait()
        if end == "stopped" and self._active:
            await asyncio.wait(self._active, timeout=_GRACE)
        if self._failure is not None:
            raise self._failure
        return end

    async def _line(self, journal: Journal, number: int, line: Line) -> None:
        if line.code:
            result, ok = unanswered(line, line.code, line.why), False
        else:
            whole = await self._answer(line)
            down = self._completions.captioner.fleet.down
            if whole.status in _LATER and self._later.put_off(number, down=down):
                return
            result, ok = answered(line, whole), whole.status == 200
        try:
            data = entry(number, result, ok=ok)
        except TypeError:  # nested deeper than can be written
            result, ok = unanswered(line, "invalid_response", "the answer is no plain JSON"), False
            data = entry(number, result, ok=ok)
        await journal.append(data)
        self.batch.shown["request_counts"]["completed" if ok else "failed"] += 1

    async def _answer(self, line: Line) -> Whole:
        try:
            return await self._completions.answer(line.body)
        except Exception:
            logging.getLogger("uvicorn.error").exception("a fault in a line of a batch")
            why = "a fault in the gateway; its log says more"
            return Whole.of(Refusal(500, why, "server_error"))

    def _room(self) -> bool:
        """Whether one more request may begin: live ones go first, so none does while any waits.

        Those that a full server sent back wait too, perhaps for ever, and a few hold up no others.
        """
        fleet, ahead = self._completions.captioner.fleet, self._completions.captioner.pool.workers
        if fleet.down:
            return not self._active  # which will tell once a server is up again
        held = min(fleet.put_off, _MOST_PUT_OFF)
        return fleet.waiting <= held and len(self._active) - held < fleet.capacity + ahead

    def _end(self) -> _End:
        if self.stopping or self._failure is not None:
            return "stopped"
        if self._store.to_be_cancelled(self.batch.id):
            return "cancelled"
        return "expired" if time.time() >= self.batch.shown["expires_at"] else ""

    async def _wait(self) -> None:
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await self._moved.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._moved.set()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _finish(self, end: _End) -> None:
        """Writes the files from the journal, and only then says so."""
        status = end or "completed"
        if self.batch.shown["status"] != "cancelling":
            self.batch.turn("cancelling" if end == "cancelled" else "finalizing")
        self._store.save(self.batch)
        written = await asyncio.to_thread(self._write_files, end)
        for name, file_id in written.items():
            self.batch.shown[name] = file_id
        self.batch.turn(status)
        self._store.save(self.batch)

    def _write_files(self, end: _End) -> dict[str, str | None]:
        done, _ = read_entries(self._folder)
        self._count(done)
        name, purpose = self.batch.id, "batch_output"
        written: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}

        def answers(file: BinaryIO) -> None:
            file.writelines(results(done, ok=True))

        def errors(file: BinaryIO) -> None:
            file.writelines(results(done, ok=False))
            if end:
                file.writelines(self._not_asked(done, end))

        counts = self.batch.shown["request_counts"]
        if counts["completed"]:
            written["output_file_id"] = self.batch.output
            self._store.write_file(
                self.batch.output, f"{name}_output.jsonl", purpose, answers, self.batch.owner
            )
        if counts["failed"] or end:
            written["error_file_id"] = self.batch.errors
            self._store.write_file(
                self.batch.errors, f"{name}_error.jsonl", purpose, errors, self.batch.owner
            )
        return written

    def _not_asked(self, done: dict[int, Place], end: _End) -> Iterator[bytes]:
        for number, raw in self._left(done):
            line = read_line(number, raw, set())
            result = unanswered(line, f"batch_{end}", f"the batch was {end} before this request")
            yield orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)

    def _left(self, done: dict[int, Place]) -> Iterator[tuple[int, bytes | None]]:
        try:
            for number, raw in input_lines(self._input, MOST_LINE):
                if number not in done:
                    yield number, raw
        except OSError as error:
            raise OutputError(
                f"{self._input} cannot be read: {error.strerror}", error.errno
            ) from error

    @property
    def _input(self) -> Path:
        return self._store.content(self.batch.shown["input_file_id"])

    def _count(self, done: dict[int, Place]) -> None:
        ok = sum(place.ok for place in done.values())
        self.batch.shown["request_counts"] |= {"completed": ok, "failed": len(done) - ok}

    def _fail(self, code: str, why: str) -> bool:
        problem = {"code": code, "message": why, "param": None, "line": None}
        self.batch.shown["errors"] = {"object": "list", "data": [problem]}
        self.batch.turn("failed")
        self._store.save(self.batch)
        return False
