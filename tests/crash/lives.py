"""A job and the lives of the processes that work on it, one after the other or side by side."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .ledger import Ledger
from .server import ServerProcess, color_of

JOYCAP = ("-c", "from joycap_vllm.cli import main; main()")


def draw(folder: Path, count: int, first: int = 0) -> dict[int, str]:
    """Draws so many pictures, each in the colour of its number, where they are
    not there yet; their keys, by number."""
    keys = {}
    for number in range(first, first + count):
        key = f"{number // 1000:03}/p {number}.png"
        path = folder / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2), color_of(number)).save(path)
        keys[number] = key
    return keys


class Life:
    """One process of `joycap caption`, in a process group of its own."""

    def __init__(self, name: str, command: Sequence[str | Path], **options: Any) -> None:
        self.name = name
        environment = os.environ | {
            "OPENAI_API_KEY": name,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment | options.pop("env", {}),
            text=True,
            **options,
        )
        self.out = self.err = ""

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def summary(self) -> dict[str, Any]:
        """What it said at its end."""
        data: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        counts = sum(data[name] for name in ("ok", "skipped", "glitched", "failed"))
        assert counts == data["tasks"]
        return data

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kills all of it, and returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, once it has ended."""
        try:
            self.out, self.err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self.out, self.err = self._process.communicate()
            raise AssertionError(f"{self.name} hangs: {self.err}") from None
        return self._process.returncode


class Job:
    """Pictures, the server that knows them, and the ledger over all lives.

    Args:
        folder: Where the pictures are; made and filled.
        server: Who captions them.
        count: How many.
        flags: More flags of the command.
        types: Caption types.
    """

    def __init__(
        self,
        folder: Path,
        server: ServerProcess,
        count: int = 24,
        *,
        flags: Sequence[str | Path] = (),
        types: tuple[str, ...] = ("descriptive",),
        state: Path | None = None,
        out: Path | None = None,
    ) -> None:
        self.folder = folder
        self.server = server
        self.flags = list(flags)
        self._types = types
        keys = draw(folder, count)
        self._out = out or folder
        self.ledger = Ledger(
            keys, state or self._out / ".joycap", server.log, self.sidecars(keys), types
        )
        self._born = 0

    def sidecars(self, keys: Mapping[int, str]) -> dict[tuple[str, str], Path]:
        first = self._types[0]
        return {
            (key, name): (self._out / key).with_suffix(".txt" if name == first else f".{name}.txt")
            for key in keys.values()
            for name in self._types
        }

    @property
    def state(self) -> Path:
        return self.ledger.state

    def begin(
        self,
        *more: str | Path,
        python: Sequence[str] = JOYCAP,
        around: Sequence[str] = (),
        **options: Any,
    ) -> Life:
        """A life of the job's command.

        Args:
            more: Flags of this life alone.
            python: What Python runs.
            around: A command that runs the command.
            options: Those of subprocess.Popen.
        """
        return self.begin_other(
            "caption", self.folder, "--base-url", self.server.url, "--no-check", "--json",
            "--wire", "png", *(word for name in self._types for word in ("--type", name)),
            *self.flags, *more, python=python, around=around, **options,
        )  # fmt: skip

    def begin_other(
        self,
        *arguments: str | Path,
        python: Sequence[str] = JOYCAP,
        around: Sequence[str] = (),
        **options: Any,
    ) -> Life:
        """A life of any command of joycap."""
        self._born += 1
        name = f"life-{self._born}"
        self.ledger.born(name)
        return Life(name, [*around, sys.executable, *python, *arguments], **options)

    def end(self, life: Life) -> Life:
        """Kills a life, if it is not dead yet, and notes what it has left."""
        life.kill()
        self.ledger.died(life.name)
        return life

    def live(self, *more: str | Path, code: int = 0, **options: Any) -> Life:
        """A whole life, to its own end."""
        life = self.begin(*more, **options)
        assert life.wait() == code, life.err
        self.ledger.died(life.name)
        return life

    def finish(self, *, repeats: bool = True) -> Life:
        """The same command to its end, after which all has to add up."""
        life = self.live()
        assert self.ledger.problems(repeats=repeats) == []
        return life
