"""One image of a source."""

from __future__ import annotations

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

    def read(self, most: int = 1 << 30) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: The file cannot be read, or is longer than `most` bytes.
        """
        try:
            size = self.path.stat().st_size
            if size > most:
                raise ImageError(
                    f"the file has {size / 1e6:.0f} MB, over the limit of {most // 1000000}"
                )
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror or error}") from error


def key_of(path: Path, root: Path) -> str:
    """`path` relative to `root` as text; bytes that are no UTF-8 become `\\xNN`."""
    try:
        name = path.relative_to(root).as_posix()
    except ValueError:
        name = path.as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
