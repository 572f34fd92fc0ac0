"""An open book: read in the background, kept fresh, and told about as plain data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from joycap_vllm.gateway.review_book import Book, Filter, Item
from joycap_vllm.gateway.review_desk import Desk
from joycap_vllm.gateway.review_find import Found, open_book
from joycap_vllm.gateway.review_thumbs import version_of

_FRESH = 2.0  # seconds between two looks at what is new
_PATIENCE = 0.3  # seconds that somebody waits for a book to be read before being told of it
MOST = 200  # captions that are told at once


class Session:
    """A book that somebody looks at; made and used within one event loop.

    Args:
        found: Which.
        book: The book.
    """

    def __init__(self, found: Found, book: Book) -> None:
        self.found = found
        self.book = book
        self.desk = Desk(book)
        self._opening: asyncio.Task[None] | None = None
        self._refreshed = 0.0

    async def ready(self) -> bool:
        """Whether the book is read; begins to read it, and waits a moment for it.

        Raises:
            OutputError: A journal cannot be read.
            UsageError: A newer version wrote one.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        done, _ = await asyncio.wait({self._opening}, timeout=_PATIENCE)
        if not done:
            return False
        if self._opening.exception() is not None:
            failed, self._opening = self._opening, None
            failed.result()
        return True

    async def fresh(self) -> None:
        """Looks at what is new, unless that was done just now."""
        now = time.monotonic()
        if now - self._refreshed > _FRESH:
            self._refreshed = now
            await asyncio.to_thread(self.book.refresh)

    async def status(self) -> dict[str, Any]:
        """What stands beside the captions: counts, the next undo, whether a job is at work."""
        return await asyncio.to_thread(self._status)

    async def view(self, wanted: Filter, count: int) -> dict[str, Any]:
        """A new view with its first captions."""
        name, total = await asyncio.to_thread(self.book.view, wanted)
        first = await self.page(name, 0, count)
        return {"view": name, "total": total, "items": first or []} | await self.status()

    async def page(self, view: str, offset: int, count: int) -> list[dict[str, Any]] | None:
        """Some captions of a view; None where it is not kept any more."""
        items = await asyncio.to_thread(self.book.page, view, offset, min(count, MOST))
        return None if items is None else await self.told(items)

    async def told(self, items: Iterable[Item]) -> list[dict[str, Any]]:
        """Captions as plain data, as they stand on the disk."""
        return await asyncio.to_thread(lambda: [_told(self.book, item) for item in items])

    async def _open(self) -> None:
        await asyncio.to_thread(self.book.refresh)
        await self.desk.finish()

    def _status(self) -> dict[str, Any]:
        with self.book.lock:
            facets, last = self.book.facets.as_json(), self.book.last_edit()
            undos = len(self.book.history)
        busy = self.book.at_work()
        return {
            "state": "ready",
            "facets": facets,
            "undo": last and {"id": last[0].edit.id, "what": last[0].edit.what, "key": last[0].key},
            "undos": undos,
            "busy": "" if busy is None else f"A job is at work here ({busy.name}).",
        }


def new_session(found: Found, roots: Any) -> Session:
    """A session of a book.

    Raises:
        UsageError: The job does not tell how it was asked.
    """
    return Session(found, open_book(found, roots))


def _told(book: Book, item: Item) -> dict[str, Any]:
    with book.lock:
        path = book.sidecar_of(item)
        said = None if path is None else book.inside.said(path)
        text = item.state.caption if said is None else book.shown(item, said)
        state = item.state
    version = version_of(book.inside, book.image_of(item))
    return {
        "id": item.id,
        "key": item.key,
        "prompt": item.prompt,
        "outcome": state.outcome,
        "glitch": state.glitch,
        "why": state.why,
        "byHand": state.by_hand,
        "caption": text,
        "best": state.caption if state.caption != text else "",
        "seen": "" if said is None else book.seen(item, said),
        "trouble": "" if said is None else said.trouble,
        "attempts": item.attempts,
        "version": version,
        "missing": "" if version else "There is no file of this picture in the folders of --root.",
    }
