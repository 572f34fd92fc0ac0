"""A real gateway on a free port, in front of a server that answers what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import orjson
import pybase64
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context, Limits

from .reviewing import Reader
from .toolkit_calls import draw
from prompt_server import serving_app

# Whom https trusts, which each client would read anew in 20 ms of CPU.
_trusted = functools.cache(httpcore2.default_ssl_context)

CAPTION = "A red circle lies in the middle of a plain white ground."
USAGE = {"prompt_tokens": 800, "completion_tokens": 20}


@dataclass
class Upstream:
    """A server that plays a script: each request takes the next answer, then captions follow.

    An answer is a text, a pair of text and `finish_reason`, or a status to fail with. Of a stream
    the second half waits for `half`, where there is one.
    """

    script: deque[str | tuple[str, str] | int] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    half: asyncio.Event | None = None
    streams: bool = True
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, _: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    async def _health(self, _: Request) -> JSONResponse:
        return JSONResponse({})

    async def _chat(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        self.bodies.append(body)
        self.arrived.set()
        if self.hold is not None:
            gone = asyncio.create_task(_gone(request))
            held = asyncio.create_task(self.hold.wait())
            await asyncio.wait((gone, held), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.left.set()
            gone.cancel()
            held.cancel()
        answer = self.script.popleft() if self.script else CAPTION
        if isinstance(answer, int):
            return JSONResponse({"error": {"message": "as told"}}, answer)
        text, finish = (answer, "stop") if isinstance(answer, str) else answer
        if self.streams and body.get("stream_options"):
            return StreamingResponse(self._stream(text, finish), media_type="text/event-stream")
        message = {"role": "assistant", "content": text}
        return JSONResponse(
            {
                "model": "stub",
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": USAGE,
            }
        )

    async def _stream(self, text: str, finish: str) -> AsyncIterator[bytes]:
        middle = len(text) // 2
        for delta, end in (
            ({"content": text[:middle]}, None),
            ({"content": text[middle:]}, finish),
        ):
            choice = {"index": 0, "delta": delta, "finish_reason": end}
            yield b"data: %b\n\n" % orjson.dumps({"model": "stub", "choices": [choice]})
            if end is None and self.half is not None:
                await self.half.wait()
        yield b"data: %b\n\n" % orjson.dumps({"model": "stub", "choices": [], "usage": USAGE})
        yield b"data: [DONE]\n\n"


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@pytest.fixture
def serve() -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[str]]:
    return serving_app


@pytest.fixture
async def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def captioner(upstream: Upstream) -> AsyncIterator[Captioner]:
    options = CaptionerOptions(
        retries=2, workers=1, check=False, fleet=FleetOptions(concurrency=4, patience=0.5)
    )
    async with (
        serving_app(upstream.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
    ):
        yield captioner


@pytest.fixture
async def gateway(captioner: Captioner) -> AsyncIterator[str]:
    async with serving_app(make_app(Context(captioner, limits=Limits(body=200_000)))) as url:
        yield url


@pytest.fixture
def picture() -> str:
    """A picture as a data URL, of a size and shape that the recipe must change."""
    return data_url(Image.new("RGB", (64, 48), (200, 30, 40)))


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + pybase64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def ask(picture: str) -> Callable[..., list[dict[str, Any]]]:
    """Messages that ask about the picture."""

    def messages(text: str = "", system: str = "", url: str = picture) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
        if text:
            parts.append({"type": "text", "text": text})
        head = [{"role": "system", "content": system}] if system else []
        return [*head, {"role": "user", "content": parts}]

    return messages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data sets, the toolkit service's only root."""
    root = tmp_path / "datasets"
    root.mkdir()
    return root


@pytest.fixture
def drawn(folder: Path) -> str:
    """A picture there, by its path."""
    return draw(folder / "a picture.png")


@pytest.fixture
def stopped() -> asyncio.Event:
    """Whether the toolkit service was told to end."""
    return asyncio.Event()


@pytest.fixture
async def service(
    captioner: Captioner, folder: Path, stopped: asyncio.Event
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the toolkit service."""
    context = Context(
        captioner,
        limits=Limits(body=200_000),
        roots=(folder,),
        stop=stopped.set,
        ai_toolkit=True,
    )
    async with (
        serving_app(make_app(context)) as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpcore2, "default_ssl_context", _trusted)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder that Review looks through."""
    made = tmp_path / "set"
    made.mkdir()
    return made


@pytest.fixture
def review(
    captioner: Captioner, serve: Callable[..., contextlib.AbstractAsyncContextManager[str]]
) -> Callable[..., contextlib.AbstractAsyncContextManager[Reader]]:
    """Opens the only book below some roots."""

    @contextlib.asynccontextmanager
    async def reading(*roots: Path) -> AsyncIterator[Reader]:
        app = make_app(Context(captioner, roots=roots))
        async with serve(app) as url, httpx2.AsyncClient(base_url=url) as client:
            reader = Reader(client)
            found = await client.get("/review")
            if found.status_code == 303:
                reader.at = found.headers["location"]
            yield reader

    return reading
