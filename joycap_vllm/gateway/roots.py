"""Files that a caller may name by their path: those below the roots, and nothing that a link or a
race leads to elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joycap_vllm.errors import ImageError, UsageError

_LONGEST = 4096  # bytes; no system opens a longer path
_THIS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Placed:
    """A regular file below a root, with all links resolved.

    Args:
        root: The root as it really is.
        steps: The names from there to the file.
    """

    root: str
    steps: tuple[str, ...]


def existing_roots(folders: Iterable[Path]) -> tuple[Path, ...]:
    """The roots, absolute, each once.

    Raises:
        UsageError: One is no folder.
    """
    roots = tuple(dict.fromkeys(folder.expanduser().absolute() for folder in folders))
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"--root {root} is no folder")
    return roots


def find_file(path: str, roots: Sequence[Path]) -> Placed | None:
    """The regular file that a caller names; a relative path is looked for below each root.

    None says nothing of why: it is missing, is no file, or lies outside of the roots. What lies
    outside is not even looked at.
    """
    try:
        if not path or "\0" in path or len(os.fsencode(path)) > _LONGEST:
            return None
    except UnicodeEncodeError:
        return None
    reals = [os.path.realpath(root) for root in roots]
    for root, real in zip(map(os.fspath, roots), reals, strict=True):
        for base in dict.fromkeys((root, real)):
            whole = os.path.normpath(Path(base, path))
            if _is_below(whole, base) and (placed := _placed(whole, reals)) is not None:
                return placed
    return None


def read_placed(placed: Placed, most: int) -> bytes:
    """Its bytes. Each step is opened from the one before and no link is followed, so what has been
    exchanged since it was found leads nowhere.

    Args:
        placed: As `find_file` gave it.
        most: Bytes that it may have.

    Raises:
        ImageError: It cannot be read, is a regular file no more, or is too long.
    """
    folder = -1
    try:
        folder = os.open(placed.root, _FOLDER)
        for step in placed.steps[:-1]:
            inner = os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _read(folder, placed.steps[-1], most)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or error}") from error
    finally:
        if folder >= 0:
            os.close(folder)


def _read(folder: int, name: str, most: int) -> bytes:
    # Looked at before it is opened, since to open some devices does something already.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise ImageError("it is no regular file")
    number = os.open(name, _THIS | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    with open(number, "rb") as file:  # noqa: PTH123 - it is open already
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("it is no regular file")
        data = b"" if about.st_size > most else file.read(most + 1)
    if about.st_size > most or len(data) > most:
        raise ImageError(f"the file is over the limit of {most / 1e6:.0f} MB")
    return data


def _placed(whole: str, roots: Sequence[str]) -> Placed | None:
    real = os.path.realpath(whole)
    for root in roots:
        if _is_below(real, root):
            try:
                regular = stat.S_ISREG(os.lstat(real).st_mode)
            except OSError:
                return None
            return Placed(root, Path(real).relative_to(root).parts) if regular else None
    return None


def _is_below(path: str, folder: str) -> bool:
    return path != folder and os.path.commonpath((path, folder)) == folder
