"""Which launchers run on this machine, and what their servers are about.

Each keeps a small file in the user's state folder for as long as it runs; one whose process is gone
says nothing and is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from joycap_vllm.server.states import Change, State

_POLL = 0.1  # seconds between two looks whether a launcher is gone


@dataclass(frozen=True)
class Launch:
    """A launcher that runs.

    Attributes:
        pid: Its process.
        born: That process's start by the kernel's clock: another one has another.
        model: What it serves.
        started: When, in seconds since 1970.
        servers: The last change of each of its servers.
    """

    pid: int
    born: str
    model: str
    started: float
    servers: tuple[Change, ...] = ()

    @property
    def order(self) -> tuple[float, int]:
        """Of two launchers that want the same port, the lesser has it."""
        return self.started, self.pid

    @property
    def runs(self) -> bool:
        """Whether its process is still there."""
        return bool(self.born) and born(self.pid) == self.born


_FILE = TypeAdapter(Launch)


class Record:
    """The file of this process's own launcher, kept up to date until the block's end.

    Args:
        model: What it serves.
        folder: Where the files are; None: the user's state folder.
    """

    def __init__(self, model: str, folder: Path | None = None) -> None:
        self._folder = folder or _folder()
        self._path = self._folder / f"{os.getpid()}.json"
        self._model, self._started = model, time.time()
        self._servers: dict[str, Change] = {}

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()

    def begin(self, url: str) -> None:
        """Tells that there will be a server, so that whoever needs it waits."""
        self.note(Change(url, State.STARTING, "", "", "", 0, time.time()))

    def note(self, change: Change) -> None:
        """Takes a server's new state; where nothing can be written, nothing is."""
        self._servers[change.url] = change
        servers = tuple(self._servers.values())
        launch = Launch(os.getpid(), born(os.getpid()), self._model, self._started, servers)
        scratch = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(asdict(launch)), encoding="utf-8")
            scratch.replace(self._path)


def launches(folder: Path | None = None) -> list[Launch]:
    """The launchers that run, the oldest first; files that others left are removed."""
    folder = folder or _folder()
    found = []
    for file in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            launch = _read(json.loads(file.read_bytes()))
            if launch is not None and launch.runs:
                found.append(launch)
            else:
                file.unlink()
    return sorted(found, key=lambda launch: launch.order)


def stop(launch: Launch, seconds: float) -> bool:
    """Asks a launcher to let its servers finish and to end; whether it did, in so many seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(launch.pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while launch.runs and time.monotonic() < until:
        time.sleep(_POLL)
    return not launch.runs


def _read(told: Any) -> Launch | None:
    """A launcher's file; None where it holds something else."""
    try:
        return _FILE.validate_python(told)
    except ValidationError:
        return None


def born(pid: int) -> str:
    """When a process was started; empty where there is none."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "" if Path("/proc/self").exists() or not _answers(pid) else "runs"
    facts = told.rpartition(")")[2].split()
    return "" if facts[0] in "ZX" else facts[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("joycap-vllm")) / "serve"
