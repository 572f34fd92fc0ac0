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


def write_atomically(path: Path, data: bytes, *, make_folders: bool = False) -> None:
    """Writes a whole file or nothing: a temporary name in the same folder, sync, rename.

    A symbolic link stays one; what it points to is written. A file that was there before keeps its
    mode, and its owner where that is allowed. What a killed process left of an earlier try is used
    up, since it has the same temporary name.

    Args:
        path: The file.
        data: What it will hold.
        make_folders: Whether folders that are missing are made.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with _replacing(path, make_folders=make_folders) as descriptor:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


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
    with (
        _replacing(path, make_folders=make_folders) as descriptor,
        os.fdopen(descriptor, "wb", _BUFFER, closefd=False) as file,
    ):
        yield file


@contextlib.contextmanager
def _replacing(path: Path, *, make_folders: bool = False) -> Iterator[int]:
    """As `replacing`, with the file's descriptor: a buffer costs more than a caption is worth."""
    try:
        old = _status(path)
        if old is not None and stat.S_ISLNK(old.st_mode):
            path = path.resolve()
            old = _status(path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise OutputError(f"{path} cannot be written: it is there, and no regular file")
        try:
            descriptor, temporary = _temporary(path)
        except FileNotFoundError:
            if not make_folders:
                raise
            _make(path.parent)
            descriptor, temporary = _temporary(path)
        try:
            if old is not None:
                _take_after(old, descriptor)
            yield descriptor
            os.fdatasync(descriptor)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}", error.errno
        ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror or error}", error.errno
        ) from error


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _temporary(path: Path) -> tuple[int, str]:
    """An open file that is nobody else's as long as it is open, and its name beside `path`.

    Names are plain strings here: pathlib would cost as much as the write itself.
    """
    folder, name = os.path.split(path)
    digest = blake2b(os.fsencode(name), digest_size=6).hexdigest()
    own = os.path.join(folder, f".{digest}.joycap-tmp")  # noqa: PTH118
    with contextlib.suppress(OSError):  # it belongs to another user, or is no file
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if _is_ours(descriptor, own):
            return descriptor, own
        os.close(descriptor)
    other = os.path.join(folder, f".{secrets.token_hex(6)}.joycap-tmp")  # noqa: PTH118
    return os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), other


def _is_ours(descriptor: int, name: str) -> bool:
    """Whether the file could be locked, still has its name, and is no other file's second one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # nothing can be locked here, so nobody uses this name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        return False
    status = os.fstat(descriptor)
    try:
        named = os.path.samestat(status, os.stat(name))  # noqa: PTH116
    except FileNotFoundError:  # it was another writer's, who has just renamed it
        return False
    if not named or status.st_nlink != 1 or status.st_uid != os.geteuid():
        return False
    if status.st_size:  # what a killed process left
        os.ftruncate(descriptor, 0)
    return True


def _take_after(old: os.stat_result, descriptor: int) -> None:
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    with contextlib.suppress(OSError):  # some network file systems know no modes
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)
