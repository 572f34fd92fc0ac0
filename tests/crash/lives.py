"""A job and the lives of the processes that work on it, one after the other or side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .ledger import Ledger
from .server import ServerProcess, color_of
from forking import start

JOYCAP = ("joycap_vllm.cli",)


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


def _write_rows(rows: Path, folder: Path, keys: dict[int, str]) -> dict[int, str]:
    """Names pictures in a manifest, each by a key that is no path; their keys, by number."""
    named = {number: f'"{number}" / ü\n' for number in keys}
    lines = [{"key": named[n], "path": str(folder / key)} for n, key in keys.items()]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return named


class Life:
    """One process of joycap.

    Args:
        name: Its API key, by which the server's log tells it from others.
        program: The module whose `main` it runs.
        arguments: What is typed behind its name.
        folder: Where it says what it says.
        before: Called in it first.
    """

    def __init__(
        self,
        name: str,
        program: str,
        arguments: Sequence[str | Path],
        folder: Path,
        before: Callable[[], object] = int,
    ) -> None:
        self.name = name
        self._said = [folder / f"{name}.{stream}" for stream in ("stdout", "stderr")]
        environment = os.environ | {"OPENAI_API_KEY": name}
        self._process = start(arguments, environment, self._said, program=program, before=before)
        self.out = self.err = ""

    @property
    def code(self) -> int | None:
        return self._process.exitcode

    @property
    def summary(self) -> dict[str, Any]:
        """What it said at its end."""
        data: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        counts = sum(data[name] for name in ("ok", "skipped", "glitched", "failed"))
        assert counts == data["tasks"]
        return data

    def kill(self) -> None:
        """Kills it, and returns when it is dead."""
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, once it has ended."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        self.out, self.err = (
            file.read_text(errors="replace") if file.exists() else "" for file in self._said
        )
        assert code is not None, f"{self.name} hangs: {self.err}"
        return code


class Job:
    """Pictures, the server that knows them, and the ledger over all lives.

    Args:
        folder: Where the pictures are; made and filled.
        server: Who captions them.
        count: How many.
        flags: More flags of the command.
        types: Caption types.
        state: The state folder, where a flag names another one.
        out: Where sidecars go, where a flag names another place.
        rows: A manifest to be made that names the pictures by keys of its own; the output is then
            `captions.jsonl` beside it.
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
        rows: Path | None = None,
    ) -> None:
        self.folder = folder
        self.server = server
        self.flags = list(flags)
        self._types = types
        keys = draw(folder, count)
        self._out = out or (rows.parent if rows else folder)
        self._input, output = folder, None
        if rows is not None:
            keys = _write_rows(rows, folder, keys)
            self._input, output = rows, rows.with_name("captions.jsonl")
            self.flags += ["--format", "jsonl", "--out", output]
        self.ledger = Ledger(
            keys, state or self._out / ".joycap", server.log, self.sidecars(keys), types, output
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
        program: Sequence[str] = JOYCAP,
        before: Callable[[], object] = int,
    ) -> Life:
        """A life of the job's command.

        Args:
            more: Flags of this life alone.
            program: A module whose `main` is run, and its first arguments.
            before: Called in it first.
        """
        return self.begin_other(
            "caption", self._input, "--base-url", self.server.url, "--no-check", "--json",
            "--wire", "png", *(word for name in self._types for word in ("--type", name)),
            *self.flags, *more, program=program, before=before,
        )  # fmt: skip

    def begin_other(
        self,
        *arguments: str | Path,
        program: Sequence[str] = JOYCAP,
        before: Callable[[], object] = int,
    ) -> Life:
        """A life of any command of joycap."""
        self._born += 1
        name = f"life-{self._born}"
        self.ledger.born(name)
        folder = self.ledger.log.parent
        return Life(name, program[0], [*program[1:], *arguments], folder, before)

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
