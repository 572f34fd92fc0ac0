"""The one way in which files are written."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from joycap_vllm.errors import OutputError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: a temporary name in the same folder, sync, rename.

    A symbolic link stays one; what it points to is written. A file that was there before keeps its
    mode, and its owner where that is allowed.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        temporary = path.with_name(f".{secrets.token_hex(6)}.joycap-tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                _take_after(path, descriptor)
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}", error.errno
        ) from error


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
