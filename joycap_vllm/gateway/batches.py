"""OpenAI's Batch API: files of requests, answered in the background and resumed after a crash."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.batches_later import Later
from joycap_vllm.gateway.batches_lines import URL
from joycap_vllm.gateway.batches_run import BatchRun
from joycap_vllm.gateway.batches_store import Batch, Store, is_seen, new_id
from joycap_vllm.gateway.reply import RefusedError

if TYPE_CHECKING:
    from joycap_vllm.gateway.completions import Completions

_LOOK = 30.0  # seconds between two looks for batches that another gateway left behind
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 30 * 86400  # seconds
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_MOST_METADATA = 16


class Batches:
    """The batches of a folder, run one after the other; use it as an async context manager.

    Several gateways may share the folder: each batch is run by the one that holds its journal.

    Args:
        folder: Where files and batches are kept.
        completions: Who answers their requests.

    Raises:
        OutputError: The folder cannot be made.
    """

    def __init__(self, folder: Path, completions: Completions) -> None:
        self.store = Store(folder)
        self._completions = completions
        self._news = asyncio.Event()
        self._now: BatchRun | None = None
        self._later: dict[str, Later] = {}
        self._stopping = False
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batches:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        self._news.set()
        if self._now is not None:
            self._now.stopping = True
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    def create(self, fields: dict[str, Any], owner: str | None = None) -> dict[str, Any]:
        """A new batch, as callers see it.

        Args:
            fields: The body of the request.
            owner: Of the key that makes it; None where nobody needs one.

        Raises:
            RefusedError: It cannot be run so.
            OutputError: It cannot be kept.
        """
        source = fields.get("input_file_id")
        if not isinstance(source, str) or self.store.file(source, owner) is None:
            raise RefusedError(400, f"no file is called {source!r}", param="input_file_id")
        if fields.get("endpoint") != URL:
            raise RefusedError(400, f"the endpoint must be {URL}", param="endpoint")
        now, seconds = int(time.time()), _window(fields.get("completion_window"))
        shown = {
            "id": new_id("batch_"),
            "object": "batch",
            "endpoint": URL,
            "errors": None,
            "input_file_id": source,
            "completion_window": fields["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + seconds,
            **{f"{name}_at": None for name in _TIMES},
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": _metadata(fields.get("metadata")),
        }
        self.store.save(Batch(shown, new_id("file-"), new_id("file-"), owner))
        self._news.set()
        return shown

    def get(self, batch_id: str, viewer: str | None = None) -> Batch:
        """A batch as it is at this moment.

        Args:
            batch_id: Its id.
            viewer: The owner that looks; None sees all.

        Raises:
            RefusedError: There is none of that id for the viewer.
        """
        if self._now is not None and self._now.batch.id == batch_id:
            batch: Batch | None = self._now.batch
        else:
            batch = self.store.batch(batch_id)
        if batch is None or not is_seen(batch.owner, viewer):
            raise RefusedError(404, f"no batch is called {batch_id!r}", param="batch_id")
        return batch

    def all(self, viewer: str | None = None) -> list[Batch]:
        """All batches that a viewer sees, the oldest first."""
        seen = (batch for batch in self.store.batches() if is_seen(batch.owner, viewer))
        return [self.get(batch.id) for batch in seen]

    def cancel(self, batch_id: str, viewer: str | None = None) -> dict[str, Any]:
        """Ends a batch; what was answered stays.

        Raises:
            RefusedError: There is none of that id for the viewer, or it has ended.
        """
        batch = self.get(batch_id, viewer)
        if batch.ended:
            raise RefusedError(409, f"the batch has ended already: {batch.shown['status']}")
        if batch.shown["status"] != "cancelling":
            batch.turn("cancelling")
            self.store.save(batch)
        self.store.ask_to_cancel(batch_id)
        self._news.set()
        return batch.shown

    def readers(self, file_id: str) -> list[str]:
        """The batches that have not ended and read a file."""
        open_ = [batch for batch in self.store.batches() if not batch.ended]
        return [batch.id for batch in open_ if batch.shown["input_file_id"] == file_id]

    async def _work(self) -> None:
        while not self._stopping:
            self._news.clear()
            found = await asyncio.to_thread(self.store.batches)
            open_ = [batch for batch in found if not batch.ended]
            self._later = {b.id: self._later[b.id] for b in open_ if b.id in self._later}
            for batch in open_:
                if not self._stopping and self._is_due(batch):
                    await self._run(batch.id)
            if not self._stopping:
                await _within(self._news, self._pause())

    def _is_due(self, batch: Batch) -> bool:
        """Whether it is a batch's turn: one whose lines were put off lets others go before it."""
        later = self._later.get(batch.id)
        over = batch.shown["status"] == "cancelling" or time.time() >= batch.shown["expires_at"]
        return over or later is None or time.monotonic() >= later.due

    def _pause(self) -> float:
        left = [later.due - time.monotonic() for later in self._later.values()]
        return max(0.0, min(left, default=_LOOK))

    async def _run(self, batch_id: str) -> None:
        batch = self.store.batch(batch_id)  # it may have been cancelled since
        if batch is None:
            return
        later = self._later.pop(batch_id, Later())
        self._now = BatchRun(self.store, batch, self._completions, later)
        try:
            await self._now.run()
            if later:
                self._later[batch_id] = later
        except Exception as error:
            self._tell(f"{batch_id} stopped: {error}; it goes on in {_LOOK:.0f} s", error)
        finally:
            self._now = None

    def _tell(self, line: str, error: Exception) -> None:
        self._completions.captioner.fleet.news.append(line)
        if not isinstance(error, JoycapError):
            logging.getLogger("uvicorn.error").error("a fault in the batches", exc_info=error)


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _window(text: object) -> int:
    """Seconds of a completion window such as `24h`."""
    match = _WINDOW.fullmatch(text) if isinstance(text, str) else None
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST:
        raise RefusedError(
            400,
            "completion_window is a time such as 24h, 30 days at most",
            param="completion_window",
        )
    return seconds


def _metadata(data: object) -> dict[str, str] | None:
    if data is None:
        return None
    whole = isinstance(data, dict) and all(
        isinstance(key, str) and len(key) <= 64 and isinstance(value, str) and len(value) <= 512
        for key, value in data.items()
    )
    if not whole or not isinstance(data, dict) or len(data) > _MOST_METADATA:
        raise RefusedError(
            400, f"metadata is at most {_MOST_METADATA} texts by name", param="metadata"
        )
    return data
