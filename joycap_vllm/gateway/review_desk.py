"""Where captions are changed: first in the journal, synced, then in the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joycap_vllm.errors import JoycapError, OutputError, UsageError
from joycap_vllm.gateway.review_book import Book, Item, id_of
from joycap_vllm.gateway.review_files import Said
from joycap_vllm.job.edits import Done, Edit, State, What, edit_line, edit_of, new_id
from joycap_vllm.job.journal import Journal
from joycap_vllm.job.scan import record_of
from joycap_vllm.outputs import write_atomically

_LATER = 0.001  # seconds; of two records of a task the later one counts
_TRIES = 5  # looks at the lock of another process, which may hold it for a moment only
_WAIT = 0.1  # seconds between two of them


class ConflictError(UsageError):
    """Something else has changed what is to be changed.

    Args:
        message: For a user.
        said: What the sidecar says now.
    """

    def __init__(self, message: str, said: Said) -> None:
        super().__init__(message)
        self.said = said


class StaleError(UsageError):
    """An edit that is not the last one, or not any more."""


class BusyError(UsageError):
    """A job is at work on the same captions."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to be made.

    Args:
        item: Of what.
        what: Its sort.
        text: The caption from now on.
        seen: Digest of the sidecar that the person saw; None takes whatever is there.
        facts: What the record tells beside it, where the model was asked.
    """

    item: Item
    what: What
    text: str
    seen: str | None
    facts: Mapping[str, Any] | None = None


class Desk:
    """Changes captions of one book, one at a time; made and used within one event loop.

    Args:
        book: The book.
    """

    def __init__(self, book: Book) -> None:
        self.book = book
        self._turn = asyncio.Lock()

    async def finish(self) -> None:
        """Writes the sidecar of the last edit of each journal, where a kill came in between."""
        async with self._turn:
            await asyncio.to_thread(self._finish)

    async def change(self, change: Change) -> str:
        """Records a change and writes it.

        Returns:
            Why the sidecar could not be written; empty where it was, or needed not.

        Raises:
            ConflictError: The sidecar does not say any more what the person saw.
            BusyError: A job is at work.
            UsageError: The text is no caption.
            OutputError: The journal cannot be written; nothing has changed.
        """
        item, book = change.item, self.book
        async with self._turn, self._journal() as journal:
            said = await asyncio.to_thread(self._said, item)
            if change.seen is not None and book.seen(item, said) != change.seen:
                raise ConflictError(
                    "the caption file was changed by something else since it was shown", said
                )
            if said.trouble:
                raise UsageError(said.trouble)
            caption, after = book.written(item, change.text, said)
            left = said.text if after is None else after
            edit = Edit(new_id(), change.what, "", item.state, said.text, left)
            state = State("ok", caption, by_hand=True)
            return await self._put(journal, item, state, edit, change.facts)

    async def undo(self, edit: str, *, force: bool = False) -> tuple[Item, str]:
        """Takes the last edit back.

        Args:
            edit: The one that is meant.
            force: Whether what was changed since gives way; the journal keeps it.

        Returns:
            The item, and as `change` does.

        Raises:
            StaleError: Another edit is the last one by now.
            ConflictError: Something else has changed the caption since.
            BusyError, OutputError: As `change` does.
        """
        book = self.book
        async with self._turn, self._journal() as journal:
            last = book.last_edit()
            if last is None or last[0].edit.id != edit:
                raise StaleError("another edit was made meanwhile, or this one was taken back")
            done, item = last
            said = await asyncio.to_thread(self._said, item)
            if said.trouble:
                raise ConflictError(said.trouble, said)
            if not force and not _is_as_left(done, item, said):
                raise ConflictError(
                    "the caption was changed by something else since this edit", said
                )
            back = Edit(new_id(), "undo", edit, item.state, said.text, done.edit.before)
            return item, await self._put(journal, item, done.edit.was, back, None)

    def drop(self, edit: str) -> None:
        """Leaves the last edit out of what can be taken back, until the book is read again."""
        with self.book.lock:
            last = self.book.last_edit()
            if last is not None and last[0].edit.id == edit:
                self.book.history.drop(edit)

    @contextlib.asynccontextmanager
    async def _journal(self) -> Any:
        """A journal of our own, held just as long as it takes, and nobody else at work.

        Both a job and we take a journal before we look for others, so one of two sees the other.
        """
        book = self.book
        await self._alone(None)  # a journal is not even made where that is in vain
        journal = await asyncio.to_thread(Journal, book.state)
        async with journal:
            await self._alone(journal.path)
            await asyncio.to_thread(book.read_on)
            yield journal

    async def _alone(self, own: Path | None) -> None:
        for left in reversed(range(_TRIES)):
            other = await asyncio.to_thread(self.book.at_work, own)
            if other is None:
                return
            if not left:
                raise BusyError(
                    f"a job is at work on these captions ({other.name}); they can be looked at, "
                    "and changed once it has ended"
                )
            await asyncio.sleep(_WAIT)

    async def _put(
        self,
        journal: Journal,
        item: Item,
        state: State,
        edit: Edit,
        asked: Mapping[str, Any] | None,
    ) -> str:
        """The record, then the sidecar; the lock of the journal is held for both."""
        facts = await asyncio.to_thread(facts_of, item)
        line = edit_line(
            item.key, item.prompt, self.book.fingerprint(item), state, edit,
            now=max(time.time(), item.at + _LATER), facts={**facts, **(asked or {})},
        )  # fmt: skip
        await journal.append(line)
        return await asyncio.to_thread(self._settle, item, edit)

    def _settle(self, item: Item, edit: Edit) -> str:
        trouble = self._write(item, edit)
        self.book.read_on()
        return trouble

    def _write(self, item: Item, edit: Edit) -> str:
        path = self.book.sidecar_of(item)
        if path is None or edit.before == edit.after:
            return ""
        try:
            path = self.book.inside.real(path)
            if edit.after is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, edit.after.encode("utf-8", "replace"), make_folders=True)
        except (OutputError, OSError) as error:
            return f"it is safe in the journal, but the caption file was not written: {error}"
        return ""

    def _said(self, item: Item) -> Said:
        path = self.book.sidecar_of(item)
        return Said() if path is None else self.book.inside.said(path)

    def _finish(self) -> None:
        book = self.book
        for journal in sorted(book.state.glob("journal-*.jsonl")):
            with contextlib.suppress(OSError, JoycapError):
                data = _last_record(journal)
                edit = None if data is None else edit_of(data)
                if data is None or edit is None or edit.before == edit.after:
                    continue
                item = book.items.get(id_of(data["key"], data["prompt"]))
                path = None if item is None else book.sidecar_of(item)
                if item is None or path is None or item.at != data.get("t"):
                    continue
                said = book.inside.said(path)
                untouched = said.text is None or path.stat().st_mtime <= item.at
                if not said.trouble and said.text == edit.before and untouched:
                    self._write(item, edit)


def _is_as_left(done: Done, item: Item, said: Said) -> bool:
    return item.state == done.state and said.text == done.edit.after


def facts_of(item: Item) -> dict[str, Any]:
    """What the record before says of the image, which stays true."""
    if item.place is None:
        return {}
    path, offset = item.place
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = record_of(file.readline(), path) or {}
    except OSError:
        return {}
    return {name: data.get(name) for name in ("image", "stem", "asked")}


def _last_record(journal: Path) -> dict[str, Any] | None:
    """The last whole line of a journal, where that is a record."""
    with journal.open("rb") as file:
        size, block = file.seek(0, os.SEEK_END), 1 << 16
        start = size
        while start > 0:
            start = max(0, start - block)
            file.seek(start)
            lines = file.read(size - start).rpartition(b"\n")[0].rpartition(b"\n")
            if lines[1] or start == 0:
                return record_of(lines[2], journal) if lines[2] else None
            block *= 2
    return None
