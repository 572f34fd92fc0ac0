"""A file system of a test's own: a mount that only the processes of one mount namespace see."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest


class Mounted:
    """A small tmpfs at `place`, seen by processes that have called `enter`, and through `seen`.

    Args:
        place: An empty folder.
        size: As mount takes it, such as `64k`.
    """

    def __init__(self, place: Path, size: str) -> None:
        script = 'mount -t tmpfs -o "size=$1" none "$0" && echo there && exec cat'
        self.place = place
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(place), size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "there":
            _, why = self._holder.communicate()
            pytest.skip(f"nothing can be mounted here: {why.strip()}")

    @property
    def enter(self) -> Callable[[], None]:
        """What a process calls to see it."""
        return partial(_enter, self._holder.pid)

    def seen(self, path: Path) -> Path:
        """A path below `place` as all others can read it."""
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    def remount(self, options: str) -> None:
        subprocess.run(
            ["nsenter", f"--target={self._holder.pid}", "--mount", "mount", "-o",
             f"remount,{options}", str(self.place)],
            check=True,
        )  # fmt: skip

    def close(self) -> None:
        self._holder.communicate()


def _enter(pid: int) -> None:
    with Path(f"/proc/{pid}/ns/mnt").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
            raise OSError(ctypes.get_errno(), "no entry into the mount namespace")
