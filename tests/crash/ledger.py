"""Who was asked what, what was kept of it, and whether that adds up.

Nothing here is read with the package's own readers: what the server got is in its log, what the
client kept is in journals and sidecars, each read as plain files.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joycap_vllm import build_prompt

from .server import caption_of

Task = tuple[str, str]  # key and prompt


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; `answered` tells whether the answer was sent."""

    life: str
    task: Task
    at: float
    answered: bool


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a file of JSON lines; those that are no JSON are left out."""
    return _rows(path.read_bytes())


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in data.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def read_journals(state: Path) -> list[dict[str, Any]]:
    """Every whole record of a state folder."""
    return [row for path in sorted(state.glob("journal-*.jsonl")) for row in read_lines(path)]


@dataclass
class Ledger:
    """One job's books.

    Args:
        keys: The images' keys, by the number that is their colour.
        state: Folder of the journals.
        log: The server's log.
        sidecars: The image's sidecar of a prompt, by key and prompt; those of all tasks.
        types: Caption types that are asked.
        output: The job's JSONL output, which it then has in place of sidecars.
    """

    keys: dict[int, str]
    state: Path
    log: Path
    sidecars: dict[Task, Path]
    types: tuple[str, ...] = ("descriptive",)
    output: Path | None = None
    _births: dict[str, int] = field(default_factory=dict)
    _deaths: dict[str, int] = field(default_factory=dict)
    _kept: dict[Task, int] = field(default_factory=dict)
    _read: Counter[Path] = field(default_factory=Counter)

    def born(self, life: str) -> None:
        """Notes that a life begins now; what was kept by now it is not to ask."""
        self._births[life] = len(self._deaths)

    def died(self, life: str) -> None:
        """Notes what journals hold at the end of a life."""
        self._deaths[life] = len(self._deaths)
        for path in sorted(self.state.glob("journal-*.jsonl")):
            with path.open("rb") as file:
                assert file.seek(0, 2) >= self._read[path], f"{path} has lost what it held"
                file.seek(self._read[path])
                whole = file.read().rpartition(b"\n")
            self._read[path] += len(whole[0]) + len(whole[1])
            for row in _rows(whole[0] + whole[1]):
                self._kept.setdefault((row["key"], row["prompt"]), self._deaths[life])

    def rewritten(self) -> None:
        """Notes that the test itself has changed the journals."""
        self._read.clear()
        self._kept.clear()

    @property
    def count(self) -> int:
        """Tasks that journals held at the last death."""
        return len(self._kept)

    def is_torn(self) -> bool:
        """Whether a journal's last line has no end."""
        return any(
            path.stat().st_size > self._read[path] for path in self.state.glob("journal-*.jsonl")
        )

    def requests(self) -> list[Request]:
        """What the server was asked, in the order in which it came."""
        rows = read_lines(self.log)
        names = {build_prompt(name).text: name for name in self.types}
        answered = {row["id"] for row in rows if "answered" in row}
        return [
            Request(
                row["life"],
                (self.keys[row["number"]], names[row["prompt"]]),
                row["t"],
                row["id"] in answered,
            )
            for row in rows
            if row.get("number") in self.keys  # the test picture is none of the job's
        ]

    def in_flight(self) -> dict[str, int]:
        """For each life, the tasks that it had asked and that no journal held at its end."""
        flying: dict[str, set[Task]] = {life: set() for life in self._deaths}
        for request in self.requests():
            kept = self._kept.get(request.task)
            if kept is None or kept > self._deaths[request.life]:
                flying[request.life].add(request.task)
        return {life: len(tasks) for life, tasks in flying.items()}

    def repeated(self) -> int:
        """Requests beyond the first of each task."""
        tasks = Counter(request.task for request in self.requests())
        return tasks.total() - len(tasks)

    def lost(self) -> set[Task]:
        """Tasks without a record."""
        return set(self.sidecars) - {(r["key"], r["prompt"]) for r in read_journals(self.state)}

    def doubled(self) -> dict[Task, int]:
        """Tasks with several records."""
        counts = Counter((r["key"], r["prompt"]) for r in read_journals(self.state))
        return {task: count for task, count in counts.items() if count > 1}

    def asked_again(self) -> list[str]:
        """Requests for tasks that a journal held before the life that asks began."""
        return [
            f"{request.task} in {request.life}"
            for request in self.requests()
            if self._kept.get(request.task, len(self._deaths)) < self._births[request.life]
        ]

    def wrong_records(self) -> list[str]:
        """Records that are not ok or hold another picture's caption."""
        captions = {key: caption_of(number) for number, key in self.keys.items()}
        return [
            f"{r['key']}: {r['outcome']} {r['caption']!r} {r.get('why')}"
            for r in read_journals(self.state)
            if r["outcome"] != "ok" or r["caption"] != captions[r["key"]]
        ]

    def wrong_sidecars(self) -> list[str]:
        """Sidecars that are missing or do not hold exactly their own caption."""
        captions = {key: caption_of(number) for number, key in self.keys.items()}
        wrong = []
        for (key, _), path in self.sidecars.items():
            text = path.read_text(encoding="utf-8") if path.exists() else None
            if text != captions[key]:
                wrong.append(f"{path}: {text!r}")
        return wrong

    def wrong_rows(self) -> list[str]:
        """Keys that the output has not exactly once, or with another picture's caption."""
        if self.output is None:
            return []
        rows = Counter((row["key"], row["caption"]) for row in read_lines(self.output))
        right = Counter((key, caption_of(number)) for number, key in self.keys.items())
        return [f"{key!r}: {caption!r}" for key, caption in (rows - right) + (right - rows)]

    def litter(self) -> list[Path]:
        """Temporary files that were left."""
        folders = {self.state, *(path.parent for path in self.sidecars.values())}
        return [path for folder in folders for path in folder.glob(".*joycap-tmp")]

    def problems(self, *, repeats: bool = True) -> list[str]:
        """All that does not add up once the job has come to its end.

        Args:
            repeats: Whether requests are counted; not where the server gives bad answers.
        """
        found: list[tuple[str, Iterable[object]]] = [
            ("lost", self.lost()),
            ("doubled", self.doubled().items()),
            ("wrong record", self.wrong_records()),
            ("wrong sidecar", self.wrong_sidecars() if self.output is None else ()),
            ("wrong row", self.wrong_rows()),
            ("left behind", self.litter()),
        ]
        if repeats:
            found.append(("asked again though it was kept", self.asked_again()))
            again, flying = self.repeated(), sum(self.in_flight().values())
            if again > flying:
                found.append(("repeated", [f"{again} requests, {flying} in flight at the ends"]))
        return [f"{what}: {each}" for what, those in found for each in those]
