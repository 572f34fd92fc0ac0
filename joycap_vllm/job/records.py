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

_TEXTS = ("fp", "caption", "glitch", "why", "finish", "model", "asked", "stem")
_ATTEMPT_TEXTS = ("glitch", "error", "endpoint", "finish")
_TOKENS = ("prompt", "cached", "completion")
_LAST_MOMENT = 253_370_000_000  # seconds since 1970: in the year 9998
_LONGEST = 1e12  # milliseconds: 30 years


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
    """Every whole record of one file with its offset and length; damaged lines, and those whose
    values are of other types than a record's, are passed over.

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
    named = all(isinstance(data.get(name), str) for name in ("key", "prompt", "outcome"))
    return data if named and _fits(data) else None


def _fits(data: dict[str, Any]) -> bool:
    """Whether all that is read of a record is of its type, or missing."""
    usage, image, attempts = data.get("usage"), data.get("image"), data.get("attempts")
    at = data.get("t")
    return (
        _are(data, _TEXTS, str)
        and (at is None or (_are(data, ("t",), (int, float)) and 0 <= at < _LAST_MOMENT))
        and (usage is None or (isinstance(usage, dict) and _are(usage, _TOKENS, int)))
        and (image is None or (isinstance(image, dict) and _is_image(image)))
        and (attempts is None or (isinstance(attempts, list) and all(map(_is_attempt, attempts))))
    )


def _is_image(image: dict[str, Any]) -> bool:
    return _are(image, ("sha256",), str) and _are(image, ("bytes",), int)


def _is_attempt(attempt: object) -> bool:
    return (
        isinstance(attempt, dict)
        and _are(attempt, _ATTEMPT_TEXTS, str)
        and _are(attempt, ("ms",), (int, float))
        and 0 <= (attempt.get("ms") or 0) < _LONGEST
    )


def _are(data: dict[str, Any], names: tuple[str, ...], kind: type | tuple[type, ...]) -> bool:
    values = (data.get(name) for name in names)
    return all(value is None or isinstance(value, kind) for value in values)


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
