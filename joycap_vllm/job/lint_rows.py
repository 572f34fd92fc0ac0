"""Rows of JSONL files, judged as they stream by."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.glitch import Verdict, judge
from joycap_vllm.job.guess import guess_style
from joycap_vllm.job.lint import Findings, Notes
from joycap_vllm.job.pool import in_order
from joycap_vllm.prompts import Style

LONGEST = 1 << 24  # bytes of a row; a longer one is passed over unread
_BLOCK = 1 << 18  # bytes of rows that are judged together
_STYLES = ("prose", "tags", "mixed")
_STDIN = "-"


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole lines of a file.

    Args:
        data: The lines; empty for one that is too long.
        first: Number of the first line, from 1.
        file: The file's name, where there are several.
    """

    data: bytes
    first: int
    file: str = ""

    @property
    def size(self) -> int:
        """Bytes in it."""
        return len(self.data)


class _BadRowError(ValueError):
    """A row without a text that can be judged."""


def lint_rows(
    files: Sequence[Path], style: Style | None, *, bad_only: bool, workers: int
) -> Generator[Findings]:
    """Findings on the rows of JSONL files, some rows at a time, in order.

    Args:
        files: The files; `-` is standard input.
        style: What rows should look like that don't say so themselves; None guesses.
        bad_only: Whether rows of captions without a glitch are left out.
        workers: Processes.

    Raises:
        UsageError: A file cannot be read.
    """
    for file in files:
        if str(file) != _STDIN and not file.exists():
            raise UsageError(f"{file} does not exist")
    pieces = (piece for file in files for piece in read_rows(file, named=len(files) > 1))
    work = partial(judge_rows, style=style, bad_only=bad_only)
    with closing(pieces):
        yield from in_order(pieces, work, workers=workers, home=__name__)


def read_rows(file: Path, *, named: bool = False) -> Iterator[Rows]:
    """A file in pieces of whole lines; of a pipe, what has come.

    Raises:
        UsageError: The file cannot be read.
    """
    name = str(file).encode("utf-8", "backslashreplace").decode() if named else ""
    try:
        with _opened(file) as stream:
            yield from cut_rows(iter(partial(stream.read, _BLOCK), b""), name)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error


def _opened(file: Path) -> io.FileIO:
    return io.FileIO(0, closefd=False) if str(file) == _STDIN else io.FileIO(file)


def cut_rows(blocks: Iterable[bytes], name: str = "") -> Iterator[Rows]:
    """Blocks of a file as pieces of whole lines."""
    number, rest, passing = 1, bytearray(), False
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if passing:  # in a row that is too long
            begin = block.find(b"\n") + 1
            if not begin:
                continue
            yield Rows(b"", number, name)
            number, passing = number + 1, False
        else:
            begin = 0
        if end > begin:
            data = bytes(rest) + block[begin:end]
            yield Rows(data, number, name)
            number += data.count(b"\n")
            rest.clear()
        rest += block[end:]
        if len(rest) > LONGEST:
            rest.clear()
            passing = True
    if passing or rest:
        yield Rows(bytes(rest), number, name)


def judge_rows(rows: Rows, *, style: Style | None, bad_only: bool) -> Findings:
    """Judges some rows; blank lines are passed over."""
    notes = Notes(bad_only=bad_only)
    lines = rows.data.split(b"\n") if rows.data else [None]
    for number, line in enumerate(lines, rows.first):
        ref = f"{rows.file}:{number}" if rows.file else number
        if line is None:
            notes.unreadable(ref, f"the row is longer than {LONGEST >> 20} MiB")
        elif line.strip():
            try:
                notes.judged(ref, _verdict(line, style, first=number == 1))
            except _BadRowError as error:
                notes.unreadable(ref, str(error))
    return notes.done()


def _verdict(line: bytes, style: Style | None, *, first: bool) -> Verdict:
    try:
        row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if first else line)
    except orjson.JSONDecodeError as error:
        raise _BadRowError(f"the row is no JSON: {error.msg}") from error
    if not isinstance(row, dict) or "text" not in row:
        raise _BadRowError('the row is no {"text": ...}')
    text = "" if row["text"] is None else row["text"]  # null is what a silent server has said
    if not isinstance(text, str):
        raise _BadRowError("the text is no string")
    finish, prompt, words = row.get("finish_reason"), row.get("prompt"), row.get("words")
    if finish is not None and not isinstance(finish, str):
        raise _BadRowError("finish_reason is no string")
    return judge(
        text,
        style=_style_of(row, text, style),
        finish_reason=finish or None,
        prompt=prompt if isinstance(prompt, str) else None,
        words=words if type(words) is int and words > 0 else None,
    )


def _style_of(row: dict[str, Any], text: str, style: Style | None) -> Style:
    wanted = row.get("style") or style or guess_style(text)
    if wanted not in _STYLES:
        raise _BadRowError(f"style is prose, tags or mixed, not {wanted!r}")
    own: Style = wanted
    return own
