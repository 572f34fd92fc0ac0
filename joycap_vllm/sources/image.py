"""One image of a source."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from joycap_vllm.errors import ImageError

MOST_BYTES = 1 << 30
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
        return getattr(self.place, "held", 0)

    def size(self) -> int | None:
        """Bytes of it, where they can be told without fetching it."""
        return self.place.size()

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
        path = self.path
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("it is no regular file")
            refuse_long(status.st_size, most)
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror or error}") from error


def refuse_long(size: int, most: int) -> None:
    """Refuses what is too long.

    Raises:
        ImageError: `size` is over `most` bytes.
    """
    if size > most:
        raise ImageError(f"the file has {size / 1e6:.0f} MB, over the limit of {most // 1000000}")
