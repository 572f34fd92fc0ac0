"""Review: captions with their pictures, to be looked through and mended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from joycap_vllm.errors import ImageError, JoycapError, OutputError
from joycap_vllm.gateway.context import GONE, JSON, Context, json_body, while_connected
from joycap_vllm.gateway.pages import page
from joycap_vllm.gateway.reply import Refusal, RefusedError, refused
from joycap_vllm.gateway.review_again import Again
from joycap_vllm.gateway.review_book import Filter, Item
from joycap_vllm.gateway.review_desk import BusyError, Change, ConflictError, StaleError
from joycap_vllm.gateway.review_find import Found, find_books
from joycap_vllm.gateway.review_session import Session, new_session
from joycap_vllm.gateway.review_thumbs import SIDES, Thumbs, placeholder, version_of
from joycap_vllm.prompts import load_table
from joycap_vllm.sources import escaped

_LISTED = 5.0  # seconds for which the list of books holds
_PAGE = 60  # captions that come with a view
_FOREVER = "private, max-age=31536000, immutable"

_T = TypeVar("_T", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Edit(_Body):
    id: str
    text: str
    seen: str | None = None
    what: Literal["edit", "accept"] = "edit"


class _Ask(_Body):
    id: str
    type: str = ""
    length: str = "any"


class _Take(_Body):
    id: str
    offer: str
    seen: str | None = None


class _Undo(_Body):
    edit: str
    force: bool = False


def review_routes(context: Context) -> list[BaseRoute]:
    """The routes below /review."""
    door = _Review(context)
    at = "/review/{book}"
    return [
        Route("/review", door.shelf, methods=["GET"]),
        Route(at, door.book, methods=["GET"]),
        Route(f"{at}/view", door.view, methods=["GET"]),
        Route(f"{at}/items", door.items, methods=["GET"]),
        Route(f"{at}/status", door.status, methods=["GET"]),
        Route(f"{at}/picture/{{item}}", door.picture, methods=["GET"]),
        Route(f"{at}/edit", door.edit, methods=["POST"]),
        Route(f"{at}/again", door.again, methods=["POST"]),
        Route(f"{at}/take", door.take, methods=["POST"]),
        Route(f"{at}/undo", door.undo, methods=["POST"]),
        Route(f"{at}/leave", door.leave, methods=["POST"]),
    ]


class _Review:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._books: dict[str, Found] = {}
        self._listed = 0.0
        self._sessions: dict[str, Session] = {}
        self._thumbs: Thumbs | None = None
        self._again = Again(context.captioner)

    async def shelf(self, request: Request) -> Response:
        """`GET /review`: the books, or the only one."""
        await self._list()
        if len(self._books) == 1:
            query = request.url.query
            only = f"/review/{next(iter(self._books))}"
            return RedirectResponse(f"{only}?{query}" if query else only, 303)
        roots = [escaped(root) for root in self._context.roots]
        books = list(self._books.values())
        return page(request, "review_shelf.html", books=books, roots=roots)

    async def book(self, request: Request) -> Response:
        """`GET /review/BOOK`: the page."""
        try:
            session = await self._session(request)
        except JoycapError as error:  # such as a job of an earlier version
            return page(request, "review_shelf.html", trouble=str(error))
        types = [(row.name, row.title) for row in load_table().types]
        return page(
            request,
            "review.html",
            book=session.found,
            several=len(self._books) > 1,
            prompts=session.book.prompts,
            types=types,
            lengths=load_table().lengths,
        )

    async def view(self, request: Request) -> Response:
        """`GET /review/BOOK/view`: a filter's captions, the worst first, as they stand now."""
        session = await self._session(request)
        if not await session.ready():
            return _json({"state": "reading", "read": session.book.read})
        await session.fresh()
        get = request.query_params.get
        wanted = Filter(
            get("outcome", ""), get("glitch", ""), get("prompt", ""), get("text", "").lower()
        )
        return _json(await session.view(wanted, _PAGE))

    async def items(self, request: Request) -> Response:
        """`GET /review/BOOK/items`: a part of a view."""
        session = await self._open(request)
        offset, count = _number(request, "offset"), _number(request, "count")
        found = await session.page(request.query_params.get("view", ""), offset, count)
        if found is None:
            raise RefusedError(410, "this view is not kept any more; load it again", code="view")
        return _json({"items": found})

    async def status(self, request: Request) -> Response:
        """`GET /review/BOOK/status`: counts, the next undo, whether a job is at work."""
        session = await self._open(request)
        await session.fresh()
        return _json(await session.status())

    async def picture(self, request: Request) -> Response:
        """`GET /review/BOOK/picture/ITEM`: a small JPEG, or a drawing that says why not."""
        session = await self._open(request)
        item = _item(session, request.path_params["item"])
        side = SIDES.get(request.query_params.get("side", "grid"), SIDES["grid"])
        book, path = session.book, session.book.image_of(item)
        version = await asyncio.to_thread(version_of, book.inside, path)
        tag = f'"{item.id}-{version}-{side}"'
        if version and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _FOREVER})
        self._thumbs = self._thumbs or Thumbs()
        try:
            work = self._thumbs.get(book.inside, path, version, side)
            data = await while_connected(request, work)
        except ImageError as error:
            headers = {"Cache-Control": "no-store"}
            return Response(placeholder(str(error)), media_type="image/svg+xml", headers=headers)
        if data is None:
            return Response(status_code=GONE)
        same = version and version == request.query_params.get("version")
        headers = {"ETag": tag, "Cache-Control": _FOREVER if same else "no-cache"}
        return Response(data, media_type="image/jpeg", headers=headers)

    async def edit(self, request: Request) -> Response:
        """`POST /review/BOOK/edit`: other words, or the same ones accepted."""
        session = await self._open(request)
        body = await self._body(request, _Edit)
        item = _item(session, body.id)
        change = Change(item, body.what, body.text, body.seen)
        return await self._done(session, item, session.desk.change(change))

    async def again(self, request: Request) -> Response:
        """`POST /review/BOOK/again`: another answer of the model, on offer."""
        session = await self._open(request)
        body = await self._body(request, _Ask)
        item = _item(session, body.id)
        work = self._again.ask(session.book, item, body.type, body.length)
        offer = await while_connected(request, work)
        return Response(status_code=GONE) if offer is None else _json(offer.as_json())

    async def take(self, request: Request) -> Response:
        """`POST /review/BOOK/take`: keeps an offer."""
        session = await self._open(request)
        body = await self._body(request, _Take)
        item = _item(session, body.id)
        offer = self._again.find(body.offer, item)
        change = Change(item, "again", offer.outcome.caption or "", body.seen, offer.facts)
        reply = await self._done(session, item, session.desk.change(change))
        if reply.status_code == 200:
            self._again.drop(body.offer)
        return reply

    async def undo(self, request: Request) -> Response:
        """`POST /review/BOOK/undo`: takes the last edit back."""
        session = await self._open(request)
        body = await self._body(request, _Undo)
        last = await asyncio.to_thread(session.book.last_edit)
        if last is None:
            raise RefusedError(409, "there is nothing to undo", code="conflict")

        async def work() -> str:
            return (await session.desk.undo(body.edit, force=body.force))[1]

        return await self._done(session, last[1], work())

    async def leave(self, request: Request) -> Response:
        """`POST /review/BOOK/leave`: an edit that is not to be taken back any more."""
        session = await self._open(request)
        body = await self._body(request, _Undo)
        await asyncio.to_thread(session.desk.drop, body.edit)
        return _json(await session.status())

    async def _done(
        self, session: Session, item: Item, work: Coroutine[None, None, str]
    ) -> Response:
        try:
            trouble = await work
        except ConflictError as error:
            told = (await session.told([item]))[0]
            refusal = {"message": str(error), "type": "invalid_request_error", "code": "conflict"}
            return _json({"error": refusal, "item": told}, 409)
        except StaleError as error:
            refusal = {"message": str(error), "type": "invalid_request_error", "code": "stale"}
            return _json({"error": refusal} | await session.status(), 409)
        except BusyError as error:
            return refused(Refusal(409, str(error), code="busy"))
        except OutputError as error:
            return refused(Refusal(507, str(error), "server_error", "journal"))
        told = (await session.told([item]))[0]
        return _json({"item": told, "trouble": trouble} | await session.status())

    async def _body(self, request: Request, model: type[_T]) -> _T:
        try:
            return model.model_validate_json(await json_body(request, self._context.limits))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise RefusedError(400, f"{where}: {first['msg']}", param=where or None) from error

    async def _open(self, request: Request) -> Session:
        session = await self._session(request)
        if not await session.ready():
            raise RefusedError(503, "the captions are still being read", code="reading")
        return session

    async def _session(self, request: Request) -> Session:
        name = request.path_params["book"]
        session = self._sessions.get(name)
        if session is not None:
            return session
        if name not in self._books:
            await self._list()
        found = self._books.get(name)
        if found is None:
            raise RefusedError(404, "there are no captions of this name below --root")
        made = await asyncio.to_thread(new_session, found, self._context.roots)
        return self._sessions.setdefault(name, made)

    async def _list(self) -> None:
        if time.monotonic() - self._listed > _LISTED:
            found = await asyncio.to_thread(find_books, self._context.roots)
            self._books = {book.id: book for book in found}
            self._listed = time.monotonic()


def _item(session: Session, name: str) -> Item:
    item = session.book.items.get(name)
    if item is None:
        raise RefusedError(404, "there is no such caption (any more)")
    return item


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.isdecimal() or len(text) > 9:
        raise RefusedError(400, f"{name} must be a number", param=name)
    return int(text)


def _json(data: dict[str, Any], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(data), status, media_type=JSON, headers=headers)
