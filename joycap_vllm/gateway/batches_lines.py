"""The lines of batches: requests in, results out, and the journal between them."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.gateway.bounds import MOST_VALUES, is_sprawling
from joycap_vllm.gateway.reply import Whole
from joycap_vllm.job.scan import lines_of

URL = "/v1/chat/completions"
_DUPLICATE = "duplicate_custom_id"


@dataclass(frozen=True, slots=True)
class Line:
    """A request of a batch, or why it is none.

    Args:
        custom_id: The caller's name for it, where it has one.
        body: The request.
        code: What is wrong with it, for programs; empty where it is a request.
        why: The same for users.
    """

    custom_id: str | None
    body: bytes = b""
    code: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result stands in a journal, and whether it is an answer."""

    path: Path
    offset: int
    ok: bool


def input_lines(path: Path, most: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file that are not blank, each with its number from 1; None in place of one
    of more than `most` bytes."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most and not line.endswith(b"\n"):
                while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            elif line.strip():
                yield number, line


def read_line(number: int, line: bytes | None, seen: set[str]) -> Line:
    """Reads a line.

    Args:
        number: Of the line, for words.
        line: As `input_lines` gives it.
        seen: The custom ids of others; its own is added.
    """
    if line is None:
        return Line(None, code="invalid_json_line", why=f"line {number} is too long")
    if is_sprawling(line):
        why = f"line {number} holds more than {MOST_VALUES:,} values"
        return Line(None, code="invalid_json_line", why=why)
    try:
        data = orjson.loads(line.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        return Line(None, code="invalid_json_line", why=f"line {number} is no JSON: {error}")
    if not isinstance(data, dict):
        return Line(None, code="invalid_json_line", why=f"line {number} is no JSON object")
    own = data.get("custom_id")
    if not isinstance(own, str) or not own:
        why = f"line {number} has no custom_id"
        return Line(None, code="missing_required_parameter", why=why)
    if own in seen:
        return Line(own, code=_DUPLICATE, why=f"line {number}: an earlier line is {own!r} too")
    seen.add(own)
    if data.get("method", "POST") != "POST":
        return Line(own, code="invalid_method", why=f"line {number}: the method must be POST")
    if data.get("url", URL) != URL:
        return Line(own, code="invalid_url", why=f"line {number}: the url must be {URL}")
    if not isinstance(data.get("body"), dict):
        why = f"line {number} has no body that is an object"
        return Line(own, code="missing_required_parameter", why=why)
    try:
        return Line(own, orjson.dumps(data["body"]))
    except TypeError as error:  # nested too deep
        return Line(own, code="invalid_json_line", why=f"line {number}: {error}")


def answered(line: Line, whole: Whole) -> dict[str, Any]:
    """A result: what a live request would have been answered, whatever its status."""
    try:
        body = orjson.loads(whole.body)
    except orjson.JSONDecodeError:
        body = whole.body.decode("utf-8", "replace")
    response = {"status_code": whole.status, "request_id": _new("req"), "body": body}
    return {**_head(line), "response": response, "error": None}


def unanswered(line: Line, code: str, why: str) -> dict[str, Any]:
    """A result without an answer."""
    return {**_head(line), "response": None, "error": {"code": code, "message": why}}


def entry(number: int, result: dict[str, Any], *, ok: bool) -> bytes:
    """A result as the journal keeps it."""
    data = {"v": 1, "line": number, "ok": ok, "result": result}
    return orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)


def read_entries(folder: Path) -> tuple[dict[int, Place], set[str]]:
    """The results in a batch's journals by the numbers of their lines, and their custom ids.

    Raises:
        OutputError: A journal cannot be read.
    """
    done: dict[int, Place] = {}
    seen: set[str] = set()
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line, offset in lines_of(path):
            try:
                data = orjson.loads(line)
                number, result = data["line"], data["result"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
            done[number] = Place(path, offset, data.get("ok") is True)
            if (result.get("error") or {}).get("code") != _DUPLICATE and result["custom_id"]:
                seen.add(result["custom_id"])
    return done, seen


def results(done: dict[int, Place], *, ok: bool) -> Iterator[bytes]:
    """The answers, or the errors, each a line, in the order of the requests."""
    files: dict[Path, Any] = {}
    try:
        for _, place in sorted(done.items()):
            if place.ok is not ok:
                continue
            if place.path not in files:
                files[place.path] = place.path.open("rb")
            files[place.path].seek(place.offset)
            data = orjson.loads(files[place.path].readline())
            yield orjson.dumps(data["result"], option=orjson.OPT_APPEND_NEWLINE)
    finally:
        for file in files.values():
            file.close()


def _head(line: Line) -> dict[str, Any]:
    return {"id": _new("batch_req"), "custom_id": line.custom_id}


def _new(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
