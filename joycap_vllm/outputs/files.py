"""The one way in which files are written: whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from joycap_vllm.errors import OutputError

_BUFFER = 1 << 20  # bytes


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: a temporary name in the same folder, sync, rename.

    A symbolic link stays one; what it points to is written. A file that was there before keeps its
    mode, and its owner where that is allowed. What a killed process left of an earlier try is used
    up, since it has the same temporary name.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path, *, make_folders: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end of the block, as `write_atomically` does;
    on an error in the block nothing is left of it.

    Args:
        path: The file.
        make_folders: Whether folders that are missing are made.

    Raises:
        OutputError: The disk is full, the folder cannot be written, or something that is no
            regular file has this name.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} cannot be written: it is there, and no regular file")
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _temporary(path)
        with os.fdopen(descriptor, "wb", _BUFFER) as file:
            try:
                _take_after(path, descriptor)
                file.truncate()
                yield file
                file.flush()
                os.fdatasync(descriptor)
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}", error.errno
        ) from error


def _temporary(path: Path) -> tuple[int, Path]:
    """An open file that is nobody else's as long as it is open, and its name beside `path`."""
    digest = blake2b(os.fsencode(path.name), digest_size=6).hexdigest()
    own = path.with_name(f".{digest}.joycap-tmp")
    with contextlib.suppress(OSError):  # it belongs to another user, or is no file
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if _is_ours(descriptor, own):
            return descriptor, own
        os.close(descriptor)
    other = path.with_name(f".{secrets.token_hex(6)}.joycap-tmp")
    return os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), other


def _is_ours(descriptor: int, name: Path) -> bool:
    """Whether the file could be locked, still has its name, and is no other file's second one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # nothing can be locked here, so nobody uses this name
        name.unlink(missing_ok=True)
        return False
    status = os.fstat(descriptor)
    try:
        named = os.path.samestat(status, name.stat())
    except FileNotFoundError:  # it was another writer's, who has just renamed it
        return False
    return named and status.st_nlink == 1 and status.st_uid == os.geteuid()


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
