"""How much, how fast and how slowly: each is refused with its own status."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pybase64
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from joycap_vllm import Captioner
from joycap_vllm.gateway.connections import guarded
from joycap_vllm.gateway.context import Context, Limits
from joycap_vllm.gateway.gate import Buckets
from joycap_vllm.gateway.keys import Key, Keyring

from .locking import CHAT, JSON, Line, asking, body, served

Ask = Callable[..., Any]
BOTH = pytest.mark.parametrize("base", [HttpToolsProtocol, H11Protocol])
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
GET = b"GET /live HTTP/1.1\r\nHost: localhost\r\n"


async def test_a_body_that_says_it_is_too_large_is_refused_unread(captioner: Captioner) -> None:
    async with served(Context(captioner, limits=Limits(body=1000))) as (url, _), Line(url) as line:
        await line.say(POST + b"Content-Length: 1001\r\n\r\n")
        refused = await line.answer()
        # The rest may still come: a client that is cut off while it sends would see no answer.
        await line.say(b"x" * 1001 + GET + b"\r\n")
        after = await line.rest_until(b"alive")

    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 OK" in after


async def test_a_body_of_pieces_is_refused_once_they_are_too_much(captioner: Captioner) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    async with (
        served(Context(captioner, limits=Limits(body=1000))) as (url, _),
        httpx2.AsyncClient(base_url=url) as client,
    ):
        answer = await client.post(CHAT, content=pieces(), headers=JSON)

    assert answer.status_code == 413
    assert answer.json()["error"]["message"]


async def test_a_file_that_is_uploaded_may_be_larger(captioner: Captioner) -> None:
    async with asking(Context(captioner, limits=Limits(body=1000, upload=2000))) as client:
        upload = await client.post("/v1/files", content=b"x" * 1500, headers=JSON)
        chat = await client.post(CHAT, content=b"x" * 1500, headers=JSON)

    assert upload.status_code != 413
    assert chat.status_code == 413


async def test_bodies_that_fill_the_memory_are_told_to_come_again(
    captioner: Captioner, upstream: Any, ask: Ask
) -> None:
    upstream.hold = asyncio.Event()
    one = body(ask())
    context = Context(captioner, limits=Limits(held=len(one) + 10))
    async with asking(context) as client:
        first = asyncio.create_task(client.post(CHAT, content=one, headers=JSON))
        await upstream.arrived.wait()
        second = await client.post(CHAT, content=one, headers=JSON)
        upstream.hold.set()
        third = (await first, await client.post(CHAT, content=one, headers=JSON))[1]

    assert second.status_code == 429
    assert int(second.headers["retry-after"]) >= 1
    assert (first.result().status_code, third.status_code) == (200, 200)
    assert context.gate.held == 0


async def test_more_than_the_queue_holds_is_told_to_come_again(
    captioner: Captioner, upstream: Any, ask: Ask
) -> None:
    upstream.hold = asyncio.Event()
    async with asking(Context(captioner, limits=Limits(queue=1))) as client:
        first = asyncio.create_task(client.post(CHAT, content=body(ask()), headers=JSON))
        await upstream.arrived.wait()
        second = await client.post(CHAT, content=body(ask()), headers=JSON)
        looked = await client.get("/v1/models")
        upstream.hold.set()
        await first
        third = await client.post(CHAT, content=body(ask()), headers=JSON)

    assert second.status_code == 429
    assert second.json()["error"]["code"] == "queue_full"
    assert int(second.headers["retry-after"]) >= 1
    assert [looked.status_code, first.result().status_code, third.status_code] == [200] * 3


async def test_a_refusal_has_the_shape_that_the_doors_clients_read(captioner: Captioner) -> None:
    async with asking(Context(captioner, keys=Keyring.of(b"alpha"))) as client:
        ollama = await client.post("/api/chat", content=b"{}", headers=JSON)
        toolkit = await client.post("/caption", content=b"{}", headers=JSON)
        openai = await client.post(CHAT, content=b"{}", headers=JSON)

    assert [one.status_code for one in (ollama, toolkit, openai)] == [401] * 3
    assert "bearer token" in ollama.json()["error"]
    assert "bearer token" in toolkit.json()["error"]
    assert "bearer token" in openai.json()["error"]["message"]


async def test_each_key_has_a_rate_of_its_own(captioner: Captioner) -> None:
    keys = Keyring(Key("one", b"alpha"), Key("two", b"beta"))
    async with asking(Context(captioner, keys=keys, limits=Limits(rate=0.1))) as client:

        async def answer(secret: str) -> httpx2.Response:
            headers = {**JSON, "Authorization": f"Bearer {secret}"}
            return await client.post(CHAT, content=b"{}", headers=headers)

        first, second, other = await answer("alpha"), await answer("alpha"), await answer("beta")

    assert (first.status_code, other.status_code) == (400, 400)
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(second.headers["retry-after"]) == 10


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), min_size=1, max_size=60),
)
def test_nobody_gets_more_than_the_rate_and_its_burst(
    rate: float, asked: list[tuple[str, float]]
) -> None:
    now = [0.0]
    buckets = Buckets(rate, 3, lambda: now[0])
    had = {"a": 0, "b": 0}
    for who, after in asked:
        now[0] += after
        wait = buckets.take(who)
        had[who] += wait == 0
        assert 0 <= wait <= 1 / rate + 1e-6
        assert had[who] <= 3 + rate * now[0] + 1e-6


def test_a_token_is_there_once_it_was_waited_for() -> None:
    now = [0.0]
    buckets = Buckets(0.5, 1, lambda: now[0])
    assert (buckets.take("a"), buckets.take("a")) == (0, 2)

    now[0] += buckets.wait("a")

    assert buckets.take("a") == 0


def test_a_crowd_of_callers_takes_little_memory() -> None:
    buckets = Buckets(1, 1, lambda: 0.0)
    for number in range(20_000):
        buckets.take(str(number))

    assert len(buckets._left) <= 10_000


async def test_a_picture_that_unfolds_to_billions_of_pixels_is_refused(
    captioner: Captioner, ask: Ask
) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    url = "data:image/png;base64," + pybase64.b64encode(bomb).decode()
    async with asking(Context(captioner)) as client:
        answer = await client.post(CHAT, content=body(ask(url=url)), headers=JSON)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_image"
    assert "--max-pixels" in answer.json()["error"]["message"]


async def test_a_body_that_trickles_ends_with_408(captioner: Captioner) -> None:
    limits = Limits(idle=0.2, least_rate=1e9)
    async with served(Context(captioner, limits=limits)) as (url, _), Line(url) as line:
        await line.say(POST + b"Content-Length: 100\r\n\r\n{")

        async def trickle() -> None:
            while True:
                await asyncio.sleep(0.05)
                await line.say(b" ")

        trickling = asyncio.create_task(trickle())
        answer = await line.rest()
        trickling.cancel()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too slowly" in answer


async def test_a_body_that_stops_ends_with_408(captioner: Captioner) -> None:
    limits = Limits(idle=0.1, least_rate=1)
    async with served(Context(captioner, limits=limits)) as (url, _), Line(url) as line:
        await line.say(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{  \r\n")
        answer = await line.rest()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_comes_steadily_is_waited_for(captioner: Captioner, ask: Ask) -> None:
    data = body(ask())
    limits = Limits(idle=0.2, least_rate=len(data))
    async with served(Context(captioner, limits=limits)) as (url, _), Line(url) as line:
        await line.say(POST + b"Content-Length: %d\r\n\r\n" % len(data))
        for at in range(0, len(data), len(data) // 5 + 1):
            await line.say(data[at : at + len(data) // 5 + 1])
            await asyncio.sleep(0.06)
        answer = await line.answer()

    assert answer.startswith(b"HTTP/1.1 200 ")


@BOTH
@pytest.mark.parametrize("begun", [b"", b"GET /live HT", GET])
async def test_a_head_that_does_not_end_is_cut_off(
    captioner: Captioner, base: Any, begun: bytes
) -> None:
    limits = Limits(head=0.2)
    async with (
        served(Context(captioner, limits=limits), guarded(limits, base)) as (url, _),
        Line(url) as line,
    ):
        await line.say(begun)
        answer = await line.rest()

    assert answer.startswith(b"HTTP/1.1 408 ")


@BOTH
async def test_a_second_head_that_does_not_end_is_cut_off(captioner: Captioner, base: Any) -> None:
    limits = Limits(head=0.2)
    async with (
        served(Context(captioner, limits=limits), guarded(limits, base)) as (url, _),
        Line(url) as line,
    ):
        await line.say(GET + b"\r\n")
        first = await line.rest_until(b"alive")
        await line.say(GET)
        second = await line.rest()

    assert b"HTTP/1.1 200 OK" in first
    assert b"HTTP/1.1 408 " in second


@BOTH
async def test_a_slow_answer_outlives_the_limit_on_heads(
    captioner: Captioner, base: Any, upstream: Any, ask: Ask
) -> None:
    limits, data = Limits(head=0.1), body(ask())
    upstream.hold = asyncio.Event()
    async with (
        served(Context(captioner, limits=limits), guarded(limits, base)) as (url, _),
        Line(url) as line,
    ):
        await line.say(POST + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        await upstream.arrived.wait()
        await line.say(GET)  # half of the next request
        await asyncio.sleep(0.3)
        upstream.hold.set()
        answer = await line.rest()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@BOTH
async def test_an_offer_of_http_2_costs_no_body(captioner: Captioner, base: Any, ask: Ask) -> None:
    limits, data = Limits(), body(ask())
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    async with (
        served(Context(captioner), guarded(limits, base)) as (url, _),
        Line(url) as line,
    ):
        await line.say(POST + offer + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        answer = await line.answer()

    assert answer.startswith(b"HTTP/1.1 200 ")


@BOTH
async def test_a_head_without_an_end_takes_no_memory(captioner: Captioner, base: Any) -> None:
    limits = Limits()
    async with (
        served(Context(captioner, limits=limits), guarded(limits, base)) as (url, _),
        Line(url) as line,
    ):

        async def flood() -> None:
            while True:
                await line.say(GET + b"X-Filler: " + b"x" * 100_000)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(), 10)


async def test_what_comes_after_a_refusal_is_not_read_for_ever(captioner: Captioner) -> None:
    limits = Limits(body=1000, head=0.2)
    async with served(Context(captioner, limits=limits)) as (url, _), Line(url) as line:
        await line.say(POST + b"Content-Length: 9999999\r\n\r\n")
        refused = await line.answer()
        await line.say(b"x")
        ended = await line.rest()

    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1" not in ended


@BOTH
async def test_connections_beyond_the_limit_are_told_and_closed(
    captioner: Captioner, base: Any
) -> None:
    limits = Limits(connections=2)
    async with (
        served(Context(captioner, limits=limits), guarded(limits, base)) as (url, _),
        Line(url) as first,
        Line(url) as second,
    ):
        for line in (first, second):
            await line.say(GET + b"\r\n")
            await line.rest_until(b"alive")
        async with Line(url) as third:
            refused = await third.rest()
        await first.say(GET + b"\r\n")
        still = await first.rest_until(b"alive")

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"200 OK" in still


def test_uvicorns_protocols_have_what_the_guard_looks_at() -> None:
    from uvicorn.server import ServerState

    for base in (HttpToolsProtocol, H11Protocol):
        loop = asyncio.new_event_loop()
        config = uvicorn.Config(lambda: None, log_level="critical")
        protocol: Any = base(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        loop.close()

        assert protocol.cycle is None
        assert protocol.connections == set()
