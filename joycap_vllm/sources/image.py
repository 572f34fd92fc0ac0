"""One image of a source."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from joycap_vllm.errors import ImageError


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image that has not been read yet.

    Args:
        key: Its name within the job, unique and stable, `/` between folders.
        path: Its file.
    """

    key: str
    path: Path

    def size(self) -> int | None:
        """The file's size in bytes; None where it cannot be told."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def read(self, most: int = 1 << 30) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: The file cannot be read, or is longer than `most` bytes.
        """
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("it is no regular file")
            size = status.st_size
            if size > most:
                raise ImageError(
                    f"the file has {size / 1e6:.0f} MB, over the limit of {most // 1000000}"
                )
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror or error}") from error


def key_of(path: Path, root: Path) -> str:
    """`path` relative to `root` as text; bytes that are no UTF-8 become `\\xNN`.

    A name that holds such a text by itself gets a second backslash, so that keys stay unique.
    """
    try:
        return escaped(path.relative_to(root))
    except ValueError:
        return escaped(path)


def path_of(key: str, root: Path) -> Path:
    """The file that `key_of` gave this key."""
    return root / unescaped(key)


def escaped(path: Path) -> str:
    """A path as text that any file can hold, as `key_of` writes it."""
    name = re.sub(r"\\(?=x[89a-f][0-9a-f])", r"\\\\", path.as_posix())
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescaped(text: str) -> Path:
    """The path that `escaped` gave this text."""

    def meant(found: re.Match[bytes]) -> bytes:
        doubled, digits = found.groups()
        return rb"\x" + digits if doubled else bytes([int(digits, 16)])

    return Path(os.fsdecode(re.sub(rb"\\(\\?)x([89a-f][0-9a-f])", meant, text.encode())))
