"""Files below the roots and nothing else: whatever a name says, its real path decides."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from joycap_vllm.errors import OutputError

_LONGEST = 1 << 20  # bytes of a sidecar
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutsideError(OutputError):
    """A path that leads out of the folders that may be used."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a sidecar says.

    Args:
        text: All of it; None where there is no sidecar, or none that can be used.
        seen: A digest of its bytes, by which a change is noticed; empty where there is none.
        trouble: Why it cannot be used.
    """

    text: str | None = None
    seen: str = ""
    trouble: str = ""


class Inside:
    """The folders that may be used.

    Args:
        roots: Absolute; what they link to counts.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)

    def real(self, path: Path) -> Path:
        """Where a path really leads; its last parts need not be there.

        Raises:
            OutsideError: Out of the folders.
        """
        try:
            real = Path(os.path.realpath(path))
        except (OSError, ValueError) as error:
            raise OutsideError("no file can have this name") from error
        self._check(real)
        return real

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
        """A regular file below the folders, with its status.

        Raises:
            OutsideError: It lies elsewhere.
            OSError: It cannot be opened.
        """
        with os.fdopen(os.open(self.real(path), _OPEN), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OutsideError("it is no regular file")
            # A folder on the way may have been exchanged for a link since it was looked at.
            with contextlib.suppress(FileNotFoundError):  # a system without /proc
                link = os.readlink(f"/proc/self/fd/{file.fileno()}")  # noqa: PTH115 - on the path
                self._check(Path(link))
            yield file, status

    def said(self, path: Path) -> Said:
        """What a sidecar says."""
        try:
            with self.opened(path) as (file, status):
                if status.st_size > _LONGEST:
                    return Said(trouble="the caption file is longer than 1 MiB and is left alone")
                data = file.read(_LONGEST + 1)
        except FileNotFoundError:
            return Said()
        except OSError as error:
            why = error.strerror or str(error)
            return Said(trouble=f"the caption file cannot be read: {why}")
        except OutsideError as error:
            return Said(trouble=f"the caption file cannot be used: {error}")
        seen = digest(data)
        try:
            return Said(data.decode(), seen)
        except UnicodeDecodeError:
            return Said(None, seen, "the caption file is no UTF-8 text and is left as it is")

    def _check(self, real: Path) -> None:
        if not any(real.is_relative_to(root) for root in self._roots):
            raise OutsideError("it lies outside of the folders given with --root")


def digest(data: bytes) -> str:
    """24 hex digits that tell bytes apart."""
    return blake2b(data, digest_size=12).hexdigest()
