"""A terminal for commands that look whether they have one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time


def on_terminal(
    arguments: list[str], columns: int, **environment: str
) -> tuple[subprocess.Popen[bytes], int]:
    """A process on a new terminal of so many columns, and what the terminal is read by."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        arguments,
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": "", **environment},
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_terminal(process: subprocess.Popen[bytes], ours: int) -> str:
    """What is shown until the process ends, which must be well, without the terminal's commands."""
    shown, deadline = b"", time.monotonic() + 40
    while time.monotonic() < deadline:
        ready, _, _ = select.select([ours], [], [], 0.1)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(10) == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))
