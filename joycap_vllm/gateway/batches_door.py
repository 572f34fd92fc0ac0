"""The routes of files and batches below /v1."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message

from joycap_vllm.gateway.batches import Batches
from joycap_vllm.gateway.context import JSON, Context, caller, json_body
from joycap_vllm.gateway.reply import RefusedError

MOST_FILE = 200 * 1000 * 1000  # bytes, as OpenAI's
_LONGEST_NAME = 1_000  # characters
_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"latin-1"})
_NUMBER = re.compile(r"[0-9]{1,9}")
_MOST_LISTED = {"file": 10_000, "batch": 100}
_USUALLY_LISTED = {"file": 10_000, "batch": 20}


def batch_routes(context: Context) -> list[BaseRoute]:
    """The routes; none where the gateway keeps nothing."""
    if context.batches is None:
        return []
    door = _Door(context, context.batches)
    return [
        Route("/v1/files", door.upload, methods=["POST"]),
        Route("/v1/files", door.files, methods=["GET"]),
        Route("/v1/files/{id}", door.file, methods=["GET"]),
        Route("/v1/files/{id}", door.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", door.content, methods=["GET"]),
        Route("/v1/batches", door.create, methods=["POST"]),
        Route("/v1/batches", door.batches, methods=["GET"]),
        Route("/v1/batches/{id}", door.batch, methods=["GET"]),
        Route("/v1/batches/{id}/cancel", door.cancel, methods=["POST"]),
    ]


class _Door:
    def __init__(self, context: Context, batches: Batches) -> None:
        self._limits = context.limits
        self._batches = batches
        self._store = batches.store

    async def upload(self, request: Request) -> Response:
        """`POST /v1/files`."""
        kind, more = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data":
            raise RefusedError(415, "the Content-Type must be multipart/form-data")
        if more.get(b"charset", b"utf-8").lower() not in _CHARSETS:
            raise RefusedError(415, "the names in a form are sent as UTF-8")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_FILE:
            raise _too_large()
        async with _form(_counted(request)) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise RefusedError(400, "send the file as the part `file`", param="file")
            if purpose != "batch":
                raise RefusedError(400, "the purpose must be batch", param="purpose")
            name = file.filename or "batch.jsonl"
            if len(name) > _LONGEST_NAME or not _is_text(name):
                raise RefusedError(400, "the file's name is no name of a file", param="file")
            owner = _owner(request)
            shown = await asyncio.to_thread(self._store.add_file, file.file, name, purpose, owner)
        return _json(shown)

    async def files(self, request: Request) -> Response:
        """`GET /v1/files`."""
        purpose = request.query_params.get("purpose")
        found = await asyncio.to_thread(self._store.files, _owner(request))
        return _list(request, "file", [f for f in found if purpose in (None, f["purpose"])])

    async def file(self, request: Request) -> Response:
        """`GET /v1/files/{id}`."""
        return _json(self._file(request))

    async def content(self, request: Request) -> Response:
        """`GET /v1/files/{id}/content`."""
        file = self._file(request)
        return FileResponse(
            self._store.content(file["id"]),
            media_type="application/octet-stream",
            filename=file["filename"],
        )

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/files/{id}`."""
        file = self._file(request)
        if readers := self._batches.readers(file["id"]):
            raise RefusedError(409, f"{readers[0]} still reads this file; cancel it first")
        self._store.remove_file(file["id"])
        return _json({"id": file["id"], "object": "file", "deleted": True})

    async def create(self, request: Request) -> Response:
        """`POST /v1/batches`."""
        try:
            fields = orjson.loads(await json_body(request, self._limits))
        except orjson.JSONDecodeError as error:
            raise RefusedError(400, f"the request is no valid JSON: {error}") from None
        if not isinstance(fields, dict):
            raise RefusedError(400, "the request must be a JSON object")
        return _json(self._batches.create(fields, _owner(request)))

    async def batches(self, request: Request) -> Response:
        """`GET /v1/batches`."""
        found = await asyncio.to_thread(self._batches.all, _owner(request))
        return _list(request, "batch", [batch.shown for batch in found])

    async def batch(self, request: Request) -> Response:
        """`GET /v1/batches/{id}`."""
        return _json(self._batches.get(request.path_params["id"], _owner(request)).shown)

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/batches/{id}/cancel`."""
        return _json(self._batches.cancel(request.path_params["id"], _owner(request)))

    def _file(self, request: Request) -> dict[str, Any]:
        name = request.path_params["id"]
        file = self._store.file(name, _owner(request))
        if file is None:
            raise RefusedError(404, f"no file is called {name!r}", param="file_id")
        return file


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The parts of a form, whose files are closed at the end."""
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=16)
    try:
        yield await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise RefusedError(400, f"that is no whole form: {error}") from None
    finally:
        # Starlette leaves the file open of a form that breaks off.
        for file in parser._files_to_close_on_error:  # noqa: SLF001
            file.close()


def _owner(request: Request) -> str | None:
    key = caller(request)
    return None if key is None else key.owner


def _is_text(name: str) -> bool:
    """Some charsets give halves of characters, which are no text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _counted(request: Request) -> Request:
    """The request, refused where its body turns out too large."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > MOST_FILE:
            raise _too_large()
        return message

    return Request(request.scope, receive)


def _too_large() -> RefusedError:
    return RefusedError(413, f"the file is over the limit of {MOST_FILE / 1e6:.0f} MB")


def _json(data: dict[str, Any]) -> Response:
    return Response(orjson.dumps(data), media_type=JSON)


def _list(request: Request, kind: str, oldest_first: Sequence[dict[str, Any]]) -> Response:
    """A page of a list, as the query asks for it."""
    query = request.query_params
    text = query.get("limit", str(_USUALLY_LISTED[kind]))
    if not (_NUMBER.fullmatch(text) and 1 <= int(text) <= _MOST_LISTED[kind]):
        raise RefusedError(400, f"limit must be 1 to {_MOST_LISTED[kind]}", param="limit")
    rows = list(oldest_first) if query.get("order") == "asc" else list(oldest_first)[::-1]
    after = query.get("after")
    if after is not None:
        ids = [row["id"] for row in rows]
        if after not in ids:
            raise RefusedError(400, f"no {kind} is called {after!r}", param="after")
        rows = rows[ids.index(after) + 1 :]
    page = rows[: int(text)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    more = len(rows) > len(page)
    return _json({"object": "list", "data": page, "has_more": more, **ends})
