"""The one way in which files are written: whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from joycap_vllm.errors import OutputError

_BUFFER = 1 << 20  # bytes


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: a temporary name in the same folder, sync, rename.

    A symbolic link stays one; what it points to is written. A file that was there before keeps its
    mode, and its owner where that is allowed.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with _told(path):
        path = path.resolve() if path.is_symlink() else path
        temporary = path.with_name(f".{secrets.token_hex(6)}.joycap-tmp")
        with _replacing(path, temporary) as file:
            file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end of the block, as `write_atomically` does;
    on an error in the block nothing is left of it.

    Folders that are missing are made. What killed processes left of earlier files of this name is
    removed.

    Raises:
        OutputError: The disk is full, the folder cannot be written, or something that is no
            regular file has this name.
    """
    with _told(path):
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} cannot be written: it is there, and no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        start = f".{hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()}."
        _remove_leftovers(path.parent, start)
        temporary = path.with_name(f"{start}{secrets.token_hex(6)}.joycap-tmp")
        with _replacing(path, temporary) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # tells that whoever writes it is alive
            yield file


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}", error.errno
        ) from error


@contextlib.contextmanager
def _replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb", _BUFFER) as file:
            _take_after(path, descriptor)
            yield file
            file.flush()
            os.fdatasync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _remove_leftovers(folder: Path, start: str) -> None:
    """Removes temporary files that nobody writes any more."""
    for path in folder.glob(f"{start}*.joycap-tmp"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _take_after(path: Path, descriptor: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    with contextlib.suppress(OSError):  # some network file systems know no modes
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)
