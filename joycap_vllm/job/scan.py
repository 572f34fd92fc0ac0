"""Reading the lines of journals: what is a record, and what of it is kept in memory.

A journal may have millions of lines, so stretches of it are read by several processes, which hand
back columns of numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import orjson

from joycap_vllm.errors import OutputError, UsageError
from joycap_vllm.job.table import digest_of

VERSION = 1  # of the records that this code writes, and the newest that it reads
NO_SIZE = 0xFFFFFFFF  # of an image of which no size is recorded
ODD_SIZE = 0xFFFFFFFE  # of one whose size does not fit here; the line tells
MOST_ATTEMPTS = 0xFFFF
FILE_SHIFT = 48  # bits of a place that tell the offset; those above number the file
_BUFFER = 1 << 18
_LAST_MOMENT = 253_370_000_000  # seconds since 1970: in the year 9998
_LONGEST = 1e12  # milliseconds: 30 years
# JSON gives values of exactly these types; true and false count as numbers.
_TEXT = frozenset({str, NoneType})
_WHOLE = frozenset({int, bool, NoneType})
_NUMBER = frozenset({int, float, bool, NoneType})


# What many records have in common, and is kept once: outcome, fingerprint, kind of glitch, and
# whether the record names the stem of the task's sidecars.
Sort = tuple[str, str, str | None, bool]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The lines of a journal that begin at `start` or after it, and before `end`."""

    path: Path
    number: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of text in it, about."""
        return self.end - self.start


@dataclass(slots=True)
class Scanned:
    """The records of a stretch in columns, one item for each.

    Args:
        digests: 12 bytes for the key and the prompt.
        places: Number of the file and offset of the line.
        moments: Seconds since 1970.
        sizes: Bytes of the image.
        attempts: Requests.
        kinds: Index of the record's sort among `sorts`.
        sorts: The sorts that occur.
    """

    digests: bytes = b""
    places: array[int] = field(default_factory=lambda: array("Q"))
    moments: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    attempts: array[int] = field(default_factory=lambda: array("H"))
    kinds: array[int] = field(default_factory=lambda: array("I"))
    sorts: list[Sort] = field(default_factory=list)


def scan(stretch: Stretch) -> Scanned:
    """What is kept in memory of the records of a stretch; damaged lines are passed over.

    Raises:
        OutputError: The file cannot be read.
        UsageError: A newer version wrote it.
    """
    found = Scanned()
    digests: list[bytes] = []
    known: dict[Sort, int] = {}
    above = stretch.number << FILE_SHIFT
    # Bound once: this loop runs for millions of lines.
    add_digest, add_place = digests.append, found.places.append
    add_moment, add_size = found.moments.append, found.sizes.append
    add_attempts, add_kind = found.attempts.append, found.kinds.append
    for line, offset in lines_of(stretch.path, stretch.start, stretch.end):
        data = record_of(line, stretch.path)
        if data is None:
            continue
        add_digest(digest_of(data["key"], data["prompt"]))
        add_place(above | offset)
        add_moment(data.get("t") or 0.0)
        size = size_of(data)
        add_size(NO_SIZE if size is None else size if 0 <= size < ODD_SIZE else ODD_SIZE)
        attempts = len(data.get("attempts") or ())
        add_attempts(attempts if attempts < MOST_ATTEMPTS else MOST_ATTEMPTS)
        add_kind(known.setdefault(sort_of(data), len(known)))
    found.digests = b"".join(digests)
    found.sorts = list(known)
    return found


def sort_of(data: dict[str, Any]) -> Sort:
    """The sort of a record."""
    get = data.get
    return data["outcome"], get("fp") or "", get("glitch"), get("stem") is not None


def size_of(data: dict[str, Any]) -> int | None:
    """Bytes of the image of a record."""
    image = data.get("image")
    return image.get("bytes") if image else None


def lines_of(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Every whole line that begins in a stretch of a file, with its offset.

    A last line without its end is left out: somebody may be writing it.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            offset = _first_line(file, start, end)
            for line in file:
                if (end is not None and offset >= end) or line[-1] != 10:  # a line feed
                    return
                yield line, offset
                offset += len(line)
    except OSError as error:
        raise OutputError(f"the journal {path} cannot be read: {error.strerror}") from error


def _first_line(file: Any, start: int, end: int | None) -> int:
    """Goes to the first line that begins at `start` or after it; its offset."""
    if start == 0:
        return 0
    offset: int = file.seek(start - 1)
    # In parts, since what stands there may be the middle of gigabytes without an end.
    while part := file.readline(_BUFFER):
        offset += len(part)
        if part[-1] == 10 or (end is not None and offset >= end):
            break
    return offset


def record_of(line: bytes, path: Path) -> dict[str, Any] | None:
    """The record that a line of a journal is, or None: it is damaged, or its values are of other
    types than a record's.

    Raises:
        UsageError: A newer version wrote it.
    """
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if type(data) is not dict:
        return None
    version = data.get("v")
    if version != VERSION and version is not None:
        if type(version) not in _NUMBER:
            return None
        if version > VERSION:
            raise UsageError(
                f"the journal {path} was written by a newer joycap-vllm: it has records of version "
                f"{version}, and this one reads up to {VERSION}. Update joycap-vllm, or start a "
                "journal of its own with --journal"
            )
    return data if _fits(data) else None


def _fits(data: dict[str, Any]) -> bool:
    """Whether all that is read of a record is of its type, or missing.

    Written out, since millions of lines pass here: loops would take five times as long.
    """
    get = data.get
    if not (
        type(get("key")) is type(get("prompt")) is type(get("outcome")) is str
        and type(get("fp")) in _TEXT
        and type(get("caption")) in _TEXT
        and type(get("glitch")) in _TEXT
        and type(get("why")) in _TEXT
        and type(get("finish")) in _TEXT
        and type(get("model")) in _TEXT
        and type(get("asked")) in _TEXT
        and type(get("stem")) in _TEXT
        and type(get("t")) in _NUMBER
        and 0 <= (get("t") or 0) < _LAST_MOMENT
    ):
        return False
    usage, image, attempts = get("usage"), get("image"), get("attempts")
    return (
        (usage is None or (type(usage) is dict and _is_usage(usage)))
        and (image is None or (type(image) is dict and _is_image(image)))
        and (attempts is None or (type(attempts) is list and all(map(_is_attempt, attempts))))
    )


def _is_usage(usage: dict[str, Any]) -> bool:
    get = usage.get
    return (
        type(get("prompt")) in _WHOLE
        and type(get("cached")) in _WHOLE
        and type(get("completion")) in _WHOLE
    )


def _is_image(image: dict[str, Any]) -> bool:
    return type(image.get("sha256")) in _TEXT and type(image.get("bytes")) in _WHOLE


def _is_attempt(attempt: Any) -> bool:
    if type(attempt) is not dict:
        return False
    get = attempt.get
    return (
        type(get("glitch")) in _TEXT
        and type(get("error")) in _TEXT
        and type(get("endpoint")) in _TEXT
        and type(get("finish")) in _TEXT
        and type(get("ms")) in _NUMBER
        and 0 <= (get("ms") or 0) < _LONGEST
    )
