"""A file system of a test's own: a mount that only the processes of one mount namespace see."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


class Mounted:
    """A small tmpfs at `place`, seen by what runs behind `around` and through `seen`.

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
    def around(self) -> tuple[str, ...]:
        """What to put before a command that is to see it."""
        return ("nsenter", f"--target={self._holder.pid}", "--mount")

    def seen(self, path: Path) -> Path:
        """A path below `place` as all others can read it."""
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    def remount(self, options: str) -> None:
        subprocess.run(
            [*self.around, "mount", "-o", f"remount,{options}", str(self.place)], check=True
        )

    def close(self) -> None:
        self._holder.communicate()
