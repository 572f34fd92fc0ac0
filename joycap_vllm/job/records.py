"""What journals say: the latest record of every task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import platformdirs

from joycap_vllm.errors import OutputError


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a journal as far as resuming needs it; its caption is read when it is wanted.

    `attempts` counts the requests of all records of the task.
    """

    outcome: str
    fingerprint: str
    sha256: str | None
    size: int | None
    at: float
    stem: str | None
    glitch: str | None
    attempts: int
    file: Path
    offset: int
    length: int

    def whole(self) -> dict[str, Any]:
        """The whole line."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            data: dict[str, Any] = orjson.loads(file.read(self.length))
        return data

    def caption(self) -> str:
        """Its caption, perhaps empty."""
        return self.whole().get("caption") or ""


def state_folder(out: Path) -> Path:
    """Where a job's journal lives: `out/.joycap`, or the user's state folder where `out` cannot
    be written or is no folder of the job's own."""
    inside = out / ".joycap"
    there = next((p for p in (inside, out, *out.parents) if p.exists()), out)
    if out != Path(out.anchor) and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return inside
    name = f"{out.name or 'root'}-{sha256(os.fsencode(out)).hexdigest()[:12]}"
    return platformdirs.user_state_path("joycap-vllm") / "jobs" / name


def read_file(
    path: Path, on_damaged: Callable[[], None] | None = None
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Every whole record of one file with its offset and length; damaged lines are passed over.

    A last line without its end is no damage: somebody may be writing it.

    Args:
        path: A journal.
        on_damaged: Called for each line that is passed over.

    Raises:
        OutputError: The file cannot be read.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                start, offset = offset, offset + len(line)
                if not line.endswith(b"\n"):
                    return
                data = _record_of(line)
                if data is not None:
                    yield data, start, len(line)
                elif on_damaged is not None:
                    on_damaged()
    except OSError as error:
        raise OutputError(f"the journal {path} cannot be read: {error.strerror}") from error


def _record_of(line: bytes) -> dict[str, Any] | None:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict):
        return None
    names = (data.get("key"), data.get("prompt"), data.get("outcome"))
    return data if all(isinstance(name, str) for name in names) else None


def read_records(folder: Path) -> dict[tuple[str, str], Record]:
    """The latest record of each task, by key and prompt, over all journals of a folder."""
    latest: dict[tuple[str, str], Record] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        for data, offset, length in read_file(path):
            task = (data["key"], data["prompt"])
            at = data.get("t") or 0.0
            before = latest.get(task)
            attempts = len(data.get("attempts") or ()) + (before.attempts if before else 0)
            if before is not None and at < before.at:
                latest[task] = replace(before, attempts=attempts)
                continue
            image = data.get("image") or {}
            latest[task] = Record(
                outcome=data["outcome"],
                fingerprint=data.get("fp") or "",
                sha256=image.get("sha256"),
                size=image.get("bytes"),
                at=at,
                stem=data.get("stem"),
                glitch=data.get("glitch"),
                attempts=attempts,
                file=path,
                offset=offset,
                length=length,
            )
    return latest
