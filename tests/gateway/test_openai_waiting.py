"""Streams that take long, and pictures that the gateway has to fetch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pybase64
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from joycap_vllm import Captioner
from joycap_vllm.gateway import openai
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import Context
from joycap_vllm.images import prepare
from joycap_vllm.sources import WebRules

CAPTION = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 60
Ask = Callable[..., Any]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "KEEP_ALIVE", 0.05)


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


def released_after(comments: int, upstream: Any) -> Callable[[bytes], None]:
    """Counts comments, and lets the server answer after some."""
    seen = 0

    def look(piece: bytes) -> None:
        nonlocal seen
        seen += piece.count(b": judging\n\n")
        if seen >= comments:
            upstream.hold.set()

    return look


@pytest.mark.usefixtures("impatient")
async def test_a_stream_that_takes_long_is_kept_alive_by_comments(
    gateway: str, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    look, whole = released_after(2, upstream), b""
    body = {"model": "joycaption", "messages": ask(), "stream": True}
    async with (
        httpx2.AsyncClient(base_url=gateway) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        async for piece in reply.aiter_bytes():
            look(piece)
            whole += piece

    assert reply.headers["content-type"] == "text/event-stream"
    assert whole.startswith(b": judging\n\n: judging\n\n")
    assert CAPTION.encode() in whole
    assert whole.endswith(b"data: [DONE]\n\n")


@pytest.mark.usefixtures("impatient")
async def test_openais_client_bears_the_comments(
    client: AsyncOpenAI, gateway: str, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    loop, hold = asyncio.get_running_loop(), upstream.hold
    loop.call_later(0.3, hold.set)

    def plain() -> list[str | None]:
        with OpenAI(base_url=f"{gateway}/v1", api_key="none") as client:
            stream = client.chat.completions.create(model="joycaption", messages=ask(), stream=True)
            return [choice.delta.content for chunk in stream for choice in chunk.choices]

    async def concurrent() -> list[str | None]:
        stream = await client.chat.completions.create(
            model="joycaption", messages=ask(), stream=True
        )
        return [choice.delta.content async for chunk in stream for choice in chunk.choices]

    told = await asyncio.gather(asyncio.to_thread(plain), concurrent())
    assert list(told) == [[CAPTION, None]] * 2


@pytest.mark.usefixtures("impatient")
async def test_a_glitch_that_stays_ends_a_begun_stream_with_an_error(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    upstream.script += [LOOP] * 9
    asyncio.get_running_loop().call_later(0.3, upstream.hold.set)
    stream = await client.chat.completions.create(model="joycaption", messages=ask(), stream=True)

    with pytest.raises(APIError, match="no caption after 3 attempts") as caught:
        _ = [chunk async for chunk in stream]

    assert caught.value.code == "repetition"


@pytest.mark.usefixtures("impatient")
async def test_a_caller_that_leaves_a_waiting_stream_ends_its_request_at_the_server(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    stream = await client.chat.completions.create(model="joycaption", messages=ask(), stream=True)
    await upstream.arrived.wait()
    await stream.close()

    async with asyncio.timeout(10):
        await upstream.left.wait()
    assert len(upstream.bodies) == 1


async def test_a_stream_that_is_refused_at_once_has_the_status_of_its_error(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    with pytest.raises(BadRequestError, match="looks like text"):
        await client.chat.completions.create(
            model="joycaption",
            messages=ask(url="data:image/png;base64,aGVsbG8gd29ybGQ="),
            stream=True,
        )


@pytest.fixture
async def pictures(serve: Any, picture: str) -> AsyncIterator[str]:
    """A server of pictures."""
    stored = pybase64.b64decode(picture.partition(",")[2])

    async def file(_: Request) -> Response:
        return Response(stored, media_type="image/png")

    async def around(_: Request) -> Response:
        return RedirectResponse("/around")

    async def large(_: Request) -> Response:
        return Response(b"x" * 100_001)

    async def slow(_: Request) -> Response:
        await asyncio.sleep(1.5)
        return Response(stored)

    routes = [
        Route("/a%20b.png", file),
        Route("/a b.png", file),
        Route("/around", around),
        Route("/large", large),
        Route("/slow", slow),
    ]
    async with serve(Starlette(routes=routes)) as url:
        yield url


@pytest.fixture
async def fetching(captioner: Captioner, serve: Any) -> AsyncIterator[AsyncOpenAI]:
    """A client of a gateway that may fetch from this machine."""
    completions = Completions(captioner, WebRules(100_000, 1.0, 2, private=True))
    async with (
        serve(make_app(Context(captioner, completions=completions))) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
    completions.close()


async def test_a_picture_behind_a_url_goes_through_the_image_recipe(
    fetching: AsyncOpenAI, pictures: str, ask: Ask, upstream: Any, picture: str
) -> None:
    url = f"{pictures}/a%20b.png"
    reply = await fetching.chat.completions.create(model="joycaption", messages=ask(url=url))

    stored = pybase64.b64decode(picture.partition(",")[2])
    sent = pybase64.b64encode(prepare(stored, "png0").data).decode()
    assert reply.choices[0].message.content == CAPTION
    part = upstream.bodies[0]["messages"][-1]["content"][0]
    assert part["image_url"]["url"] == f"data:image/png;base64,{sent}"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/around", "redirects more than 2 times"),
        ("/large", "over the limit"),
        ("/slow", "silent for too long|longer than its time"),
        ("/nowhere", "answers 404"),
    ],
)
async def test_a_picture_that_cannot_be_fetched_is_a_bad_request_with_the_reason(
    fetching: AsyncOpenAI, pictures: str, ask: Ask, upstream: Any, path: str, words: str
) -> None:
    with pytest.raises(BadRequestError, match=words) as caught:
        await fetching.chat.completions.create(
            model="joycaption", messages=ask(url=pictures + path)
        )

    assert caught.value.code == "invalid_image"
    assert "--" not in caught.value.message
    assert upstream.bodies == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "0x7f000001"],
)
async def test_no_address_inside_is_ever_fetched(
    client: AsyncOpenAI, pictures: str, ask: Ask, host: str
) -> None:
    port = pictures.rpartition(":")[2]
    url = f"http://{host}:{port}/a%20b.png"
    with pytest.raises(BadRequestError, match="cannot be fetched") as caught:
        await client.chat.completions.create(model="joycaption", messages=ask(url=url))

    assert "--" not in caught.value.message
    assert "(" not in caught.value.message.split("is not a public address")[-1]


async def test_slow_pictures_hold_up_no_others(
    fetching: AsyncOpenAI, pictures: str, ask: Ask, upstream: Any
) -> None:
    slow = [
        asyncio.create_task(
            fetching.chat.completions.create(
                model="joycaption", messages=ask(url=f"{pictures}/slow")
            )
        )
        for _ in range(4)
    ]
    await fetching.chat.completions.create(model="joycaption", messages=ask())
    before = [task.done() for task in slow]
    await asyncio.gather(*slow, return_exceptions=True)

    assert before == [False] * 4
