"""The captions of a job, image by image, from its journals."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from joycap_vllm.errors import OutputError
from joycap_vllm.job.records import Record, Records
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.outputs import CaptionedImage, dress
from joycap_vllm.sources import unescaped_text

_OPEN = 64  # journals that are kept open
_BLOCK = 1 << 13  # bytes; most lines are shorter


class Captions:
    """What the journals tell of images; use it as a context manager.

    Args:
        job: The job; prompts that it asks no more are left out.
        records: What its journals say.
        roots: By the folder of a journal, the folder that its keys are relative to, where that is
            not the job's.
    """

    def __init__(
        self, job: StoredJob, records: Records, roots: Mapping[Path, Path] | None = None
    ) -> None:
        self._job = job
        self._records = records
        self._names = tuple(prompt.name for prompt in job.prompts)
        self._kept = ("ok", "glitched") if job.on_glitch == "keep" else ("ok",)
        self._numbers = {file: number for number, file in enumerate(records.files)}
        known = roots or {}
        homes = [known.get(file.parent, job.sidecars.root) for file in records.files]
        self._roots = [os.path.join(home, "") for home in homes]  # noqa: PTH118 - with its slash
        self._files: dict[Path, int] = {}

    def __enter__(self) -> Captions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def of(self, key: str, path: Path | None = None) -> CaptionedImage | None:
        """The image with this key; None where the journals have none.

        Args:
            key: The key.
            path: Its file, where it is one of this machine.
        """
        found = {name: self._records.get((key, name)) for name in self._names}
        lines = {name: self._line(record) for name, record in found.items() if record is not None}
        return self._image(key, lines, path) if lines else None

    def all(self) -> Iterator[CaptionedImage]:
        """Every image that the journals tell of, once, where its first record stands in them; with
        its file, where its key is the name of one.

        Raises:
            OutputError: A journal cannot be read.
        """
        for number, journal in enumerate(self._records.files):
            for line, offset in _lines(journal):
                lines = self._first_seen(line, number, offset)
                if lines is not None:
                    key = lines[next(iter(lines))]["key"]
                    yield self._image(key, lines, _file_of(key, self._roots[number]))

    def _first_seen(
        self, line: bytes, number: int, offset: int
    ) -> dict[str, dict[str, Any]] | None:
        """All latest records of this one's image, if it is the first of them; what the index
        points at has been checked to be a record."""
        try:
            data = orjson.loads(line)
            key, prompt = data["key"], data["prompt"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
        if not isinstance(key, str) or prompt not in self._names:
            return None
        lines: dict[str, dict[str, Any]] = {}
        for name in (prompt, *(other for other in self._names if other != prompt)):
            record = self._records.get((key, name))
            if name == prompt:
                if record is None or self._place(record) != (number, offset):
                    return None  # it is not the latest of its task
                lines[name] = data
            elif record is not None:
                if self._place(record) < (number, offset):
                    return None
                lines[name] = self._line(record)
        return lines

    def _image(
        self, key: str, lines: Mapping[str, dict[str, Any]], path: Path | None
    ) -> CaptionedImage:
        sidecars = self._job.sidecars
        captions: dict[str, str] = {}
        for name in self._names:
            line = lines.get(name)
            if line is None or line["outcome"] not in self._kept:
                continue
            tags = name in sidecars.tag_prompts
            text = dress(line.get("caption") or "", sidecars.dressing, tags=tags)
            if text:
                captions[name] = text
        return CaptionedImage(key, captions, lines, path)

    def _place(self, record: Record) -> tuple[int, int]:
        return self._numbers[record.file], record.offset

    def _line(self, record: Record) -> dict[str, Any]:
        file = self._files.get(record.file)
        try:
            if file is None:
                if len(self._files) >= _OPEN:
                    self._close()
                file = self._files[record.file] = os.open(record.file, os.O_RDONLY | os.O_CLOEXEC)
            data: dict[str, Any] = orjson.loads(_line_at(file, record.offset))
        except (OSError, orjson.JSONDecodeError) as error:
            raise OutputError(f"the journal {record.file} cannot be read: {error}") from error
        return data

    def _close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()


def _file_of(key: str, root: str) -> Path | None:
    inside = unescaped_text(key) if "\\x" in key else key
    if inside.startswith("/") or ".." in inside.split("/") or "\0" in inside:
        return None
    name = root + inside
    return Path(name) if os.path.isfile(name) else None  # noqa: PTH113 - for millions


def _line_at(file: int, offset: int) -> bytes:
    line, size = b"", _BLOCK
    while b"\n" not in line and (block := os.pread(file, size, offset + len(line))):
        line, size = line + block, 2 * size
    return line.partition(b"\n")[0]


def _lines(journal: Path) -> Iterator[tuple[bytes, int]]:
    offset = 0
    try:
        with journal.open("rb") as file:
            for line in file:
                yield line, offset
                offset += len(line)
    except OSError as error:
        raise OutputError(f"the journal {journal} cannot be read: {error.strerror}") from error
