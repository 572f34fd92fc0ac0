"""One image of a source."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import pybase64

from joycap_vllm.errors import ImageError

MOST_BYTES = 1 << 30
_PART = 1 << 20  # bytes that are read at once of a file whose size is not known
NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})


class Place(Protocol):
    """Where the bytes of an image are."""

    @property
    def path(self) -> Path | None:
        """Its file, where it is one of this machine."""

    def size(self) -> int | None:
        """Bytes of it, where they can be told without fetching it."""

    def read(self, most: int) -> bytes:
        """The bytes.

        Raises:
            ImageError: They cannot be had, or are more than `most`.
        """


class SourceImage(NamedTuple):
    """An image that has not been read yet.

    Args:
        key: Its name within the job, unique and stable, `/` between folders.
        place: Where its bytes are.
        columns: The other columns of its row, for prompt templates; values as the row has them.
    """

    key: str
    place: Place
    columns: Mapping[str, Any] = NO_COLUMNS

    @property
    def path(self) -> Path | None:
        """Its file, where it is one of this machine."""
        return self.place.path

    @property
    def file(self) -> str | None:
        """As `path`, but quick: it is asked for millions of them."""
        place = self.place
        return place.name if type(place) is FilePlace else None

    @property
    def held(self) -> int:
        """Bytes of it that are in memory already."""
        place = self.place
        if type(place) is BytesPlace:
            return len(place.data)
        return len(place.text) if type(place) is Base64Place else 0

    @property
    def is_at_hand(self) -> bool:
        """Whether it can be read again for little: it is a file of this machine, or part of one."""
        return isinstance(self.place, FilePlace | SlicePlace)

    def without_bytes(self) -> SourceImage:
        """The same, without what is `held`; it can be read no more."""
        return self._replace(place=NoPlace("its bytes are used up")) if self.held else self

    def digest(self) -> str | None:
        """SHA-256 of its bytes; None where they cannot be had."""
        try:
            return sha256(self.read()).hexdigest()
        except ImageError:
            return None

    def size(self) -> int | None:
        """Bytes of it, where they can be told without fetching it."""
        return self.place.size()

    def facts(self) -> tuple[int | None, float | None]:
        """Its bytes and when it was changed, in seconds since 1970, as far as they can be told
        without fetching it."""
        place = self.place
        if not isinstance(place, FilePlace | SlicePlace):
            return place.size(), None
        try:
            status = os.stat(place.name)  # noqa: PTH116 - asked for millions of files
        except (OSError, ValueError):
            return None, None
        size = place.length if isinstance(place, SlicePlace) else status.st_size
        return size, status.st_mtime

    def read(self, most: int = MOST_BYTES) -> bytes:
        """The bytes.

        Raises:
            ImageError: They cannot be had, or are more than `most`.
        """
        return self.place.read(most)


class FilePlace(NamedTuple):
    """A file of this machine, absolute."""

    name: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.name)

    def size(self) -> int | None:
        """The file's size in bytes; None where it cannot be told."""
        try:
            return os.stat(self.name).st_size  # noqa: PTH116 - asked for millions of files
        except OSError:
            return None

    def read(self, most: int) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: The file cannot be read, or is longer than `most` bytes.
        """
        try:
            status = os.stat(self.name)  # noqa: PTH116 - before it is opened, which may wait
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("it is no regular file")
            refuse_long(status.st_size, most)
            if not status.st_size:
                return b""  # what the kernel tells under such names may have no end
            data = _read_file(self.name, status.st_size, most)
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # a NUL in a name that a row gave
            raise ImageError(f"its path can be none: {error}") from error
        refuse_long(len(data), most)
        return data


class SlicePlace(NamedTuple):
    """A part of a file of this machine, such as a member of a tar shard."""

    name: str
    offset: int
    length: int

    @property
    def path(self) -> None:
        """It has no file of its own."""

    def size(self) -> int:
        """Its length in bytes."""
        return self.length

    def read(self, most: int) -> bytes:
        """Its bytes.

        Raises:
            ImageError: They cannot be read, or are more than `most`.
        """
        refuse_long(self.length, most)
        try:
            with open(self.name, "rb") as file:  # noqa: PTH123 - asked for millions of slices
                file.seek(self.offset)
                data = file.read(self.length)
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read: {error.strerror or error}") from error
        if len(data) < self.length:
            raise ImageError(f"{self.name} has become shorter since it was listed")
        return data


class BytesPlace(NamedTuple):
    """Bytes that are at hand."""

    data: bytes

    @property
    def path(self) -> None:
        """It has no file."""

    def size(self) -> int:
        """Their number."""
        return len(self.data)

    def read(self, most: int) -> bytes:
        """Themselves.

        Raises:
            ImageError: They are more than `most`.
        """
        refuse_long(len(self.data), most)
        return self.data


class Base64Place(NamedTuple):
    """Base64 text, with or without the head of a data URL; read only when it is asked for."""

    text: str

    @property
    def path(self) -> None:
        """It has no file."""

    def size(self) -> int | None:
        """Bytes that it stands for; None for text in lines or without its padding."""
        length = len(self.text) - self._start()
        if length % 4 or re.search(r"\s", self.text):
            return None
        return length // 4 * 3 - self.text.count("=", -2)

    def read(self, most: int) -> bytes:
        """The bytes.

        Raises:
            ImageError: It is no base64, or stands for more than `most` bytes.
        """
        refuse_long((len(self.text) - self._start()) // 4 * 3 - 2, most)
        text = "".join(self.text[self._start() :].split())
        try:
            plain = text.translate({ord("-"): "+", ord("_"): "/"}) if text.isascii() else text
            return pybase64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except ValueError:
            raise ImageError(
                f"`image` is no base64 ({text[:20]!r}...); a path goes into `path`"
            ) from None

    def _start(self) -> int:
        return self.text.find(",", 0, 200) + 1 if self.text.startswith("data:") else 0


class NoPlace(NamedTuple):
    """Nowhere: an image that its source names and cannot give."""

    why: str

    @property
    def path(self) -> None:
        """It has no file."""

    def size(self) -> None:
        """It has none."""

    def read(self, most: int) -> bytes:  # noqa: ARG002
        """Says why there is nothing.

        Raises:
            ImageError: Always.
        """
        raise ImageError(self.why)


def _read_file(name: str, size: int, most: int) -> bytes:
    """A file's bytes, up to one more than `most`; each call into the kernel costs this thread its
    turn, so there are no more than it takes."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, size + 1)
        if len(data) == size:
            return data
        parts = [data]  # it has grown or shrunk since, or comes in pieces
        while parts[-1] and (left := most + 1 - sum(map(len, parts))) > 0:
            parts.append(os.read(descriptor, min(left, _PART)))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def refuse_long(size: int, most: int) -> None:
    """Refuses what is too long.

    Raises:
        ImageError: `size` is over `most` bytes.
    """
    if size > most:
        raise ImageError(f"the file has {size / 1e6:.0f} MB, over the limit of {most // 1000000}")
