"""Which books there are below the roots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from joycap_vllm.errors import OutputError, UsageError
from joycap_vllm.gateway.review.book import Book
from joycap_vllm.gateway.review.files import Inside, digest
from joycap_vllm.gateway.review.folder import FolderBook
from joycap_vllm.gateway.review.job import JobBook
from joycap_vllm.job.records import state_folder
from joycap_vllm.job.stored import JOB_FILE, load_job
from joycap_vllm.sources import escaped, image_names

_MOST = 1000  # books that are listed
_FOLDERS = 50_000  # folders that are looked into for them


@dataclass(frozen=True, slots=True)
class Found:
    """A book that can be opened.

    Args:
        id: Stands for it in addresses.
        kind: The journal of a job, or a folder without one.
        folder: The job's folder, or the folder itself.
        state: The state folder; of a plain folder that where its journal would be.
    """

    id: str
    kind: Literal["job", "folder"]
    folder: Path
    state: Path

    @property
    def title(self) -> str:
        """Its path as text."""
        return escaped(self.folder)


def find_books(roots: Sequence[Path]) -> list[Found]:
    """All books, each once: jobs, and roots in which pictures belong to none."""
    inside = Inside(roots)
    found: dict[Path, Found] = {}
    for root in dict.fromkeys(Path(os.path.abspath(root)) for root in roots):  # noqa: PTH100
        for book in _below(root, inside):
            found.setdefault(book.folder, book)
            if len(found) >= _MOST:
                break
    return list(found.values())


def open_book(found: Found, roots: Sequence[Path]) -> Book:
    """The book, of which nothing is read yet.

    Raises:
        UsageError: The job does not tell how it was asked.
        OutsideError: Its state folder is a link that leads elsewhere.
    """
    inside = Inside([*roots, *_own_places(found.folder)])
    inside.real(found.state)
    inside = Inside(roots)
    if found.kind == "job":
        return JobBook(load_job(found.state), inside)
    return FolderBook(found.folder, inside)


def _own_places(folder: Path) -> list[Path]:
    """Where the journal of a folder that cannot be written is kept."""
    return [state_folder(folder)] if state_folder(folder).parent != folder else []


def _below(root: Path, inside: Inside) -> Iterator[Found]:
    away = state_folder(root)
    if (away / JOB_FILE).is_file():
        yield _found("job", root, away)
        plain = False
    elif (root / JOB_FILE).is_file() and next(root.glob("journal-*.jsonl"), None):
        yield _found("job", root, root)
        return
    else:
        plain = True
    pictures, waiting, looked = False, [(root, plain)], 0
    while waiting and looked < _FOLDERS:
        (folder, loose), looked = waiting.pop(), looked + 1
        try:
            with os.scandir(folder) as entries:
                inner = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue
        state = folder / ".joycap"
        if folder != root and _is_job(state, inside):
            yield _found("job", folder, state)
            loose = False  # what lies deeper is the job's too
        pictures = pictures or (loose and bool(image_names(folder)))
        inner = [name for name in reversed(inner) if not name.startswith(".")]
        waiting += [(folder / name, loose) for name in inner]
    if pictures:
        yield _found("folder", root, away)


def _is_job(state: Path, inside: Inside) -> bool:
    try:
        return inside.real(state / JOB_FILE).is_file()
    except (OSError, OutputError, UsageError):
        return False


def _found(kind: Literal["job", "folder"], folder: Path, state: Path) -> Found:
    return Found(digest(os.fsencode(folder)), kind, folder, state)
