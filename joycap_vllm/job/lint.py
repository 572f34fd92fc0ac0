"""Captions that exist already, judged as answers are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.glitch import Verdict, judge
from joycap_vllm.prompts import Style


def lint_sidecars(
    paths: Sequence[Path], extension: str, style: Style
) -> Iterator[tuple[str, Verdict]]:
    """Verdicts on sidecars, by their paths; folders are walked in the order of names.

    Raises:
        UsageError: A path is not there or cannot be read.
    """
    for path in paths:
        for file in _files(path, extension):
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise UsageError(f"{file} cannot be read: {error.strerror}") from error
            ref = os.fsencode(file).decode("utf-8", "backslashreplace")
            yield ref, judge(text, style=style)


def lint_rows(path: Path, style: Style) -> Iterator[tuple[int, Verdict]]:
    """Verdicts on the rows of a JSONL file, by row number from 1.

    Raises:
        UsageError: The file cannot be read, or a row has no text.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _judge_row(line, f"{path}, row {number}", style)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _judge_row(line: bytes, where: str, style: Style) -> Verdict:
    try:
        row = orjson.loads(line)
        text = row["text"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(f'{where}: each row is {{"text": ...}}') from error
    if text is None:
        text = ""  # what a server that answers null has said
    if not isinstance(text, str):
        raise UsageError(f"{where}: the text is no string")
    wanted = row.get("style") or style
    if wanted not in ("prose", "tags", "mixed"):
        raise UsageError(f"{where}: style is prose, tags or mixed, not {wanted!r}")
    return judge(text, style=wanted, finish_reason=row.get("finish_reason"))


def _files(path: Path, extension: str) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UsageError(f"{path} does not exist")
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(extension) and not name.startswith("."):
                yield Path(folder, name)
