"""Conversations through the gateway, which reach a server as they are and come back as they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson
import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Keyring

HELLO: Any = [{"role": "user", "content": "Hello"}]
Ask = Callable[..., Any]


@dataclass
class Chatty:
    """A server that says its words one after the other, and waits for `go` before the last."""

    words: list[str] = field(default_factory=lambda: ["Hi", " there"])
    status: int = 200
    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        models = {"data": [{"id": "chatty", "object": "model"}]}
        return Starlette(
            routes=[
                Route("/v1/models", lambda _: JSONResponse(models)),
                Route("/health", lambda _: JSONResponse({})),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        if self.status != 200:
            error = {"error": {"message": f"as told; {self.keys[-1]}", "code": self.status}}
            return JSONResponse(error, self.status, headers={"Retry-After": "7"})
        if body.get("stream"):
            return StreamingResponse(self._streamed(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(self.words), "tool_calls": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
        return JSONResponse({"id": "x", "model": "chatty", "choices": [choice], "usage": usage})

    async def _streamed(self) -> AsyncIterator[bytes]:
        try:
            for word in self.words:
                if word is self.words[-1]:
                    self.begun.set()
                    await self.go.wait()
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                yield b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise


@pytest.fixture
def chatty() -> Chatty:
    return Chatty()


@pytest.fixture
async def client(chatty: Chatty, serve: Any) -> AsyncIterator[AsyncOpenAI]:
    options = CaptionerOptions(
        api_key="servers-own",
        workers=1,
        check=False,
        fleet=FleetOptions(concurrency=2, patience=0.3),
    )
    async with (
        serve(chatty.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
        serve(make_app(Context(captioner, keys=Keyring.of(b"callers")))) as gateway,
        AsyncOpenAI(base_url=f"{gateway}/v1", api_key="callers", max_retries=0) as client,
    ):
        yield client


async def test_a_chat_without_a_picture_is_passed_through_as_it_is(
    client: AsyncOpenAI, chatty: Chatty
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="joycaption/straightforward",
        messages=HELLO,
        temperature=0.1,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        extra_body={"min_p": 0.2},
    )
    reply = raw.parse()

    assert reply.choices[0].message.content == "Hi there"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 13
    assert raw.headers["x-joycap-judged"] == "no"
    body = chatty.bodies[0]
    assert (body["model"], body["messages"], body["min_p"]) == ("chatty", HELLO, 0.2)
    assert body["tools"][0]["function"]["name"] == "f"


async def test_the_callers_key_stays_here_and_the_servers_key_is_sent(
    client: AsyncOpenAI, chatty: Chatty
) -> None:
    await client.chat.completions.create(model="joycaption", messages=HELLO)

    assert chatty.keys == ["Bearer servers-own"]


async def test_a_streamed_chat_comes_word_by_word(client: AsyncOpenAI, chatty: Chatty) -> None:
    stream = await client.chat.completions.create(
        model="joycaption",
        messages=HELLO,
        stream=True,
    )
    words = []
    async for chunk in stream:
        words.append(chunk.choices[0].delta.content)
        chatty.go.set()  # the last word is said only once the first was heard

    assert words == ["Hi", " there"]


async def test_a_caller_that_leaves_a_stream_ends_it_at_the_server(
    client: AsyncOpenAI, chatty: Chatty
) -> None:
    stream = await client.chat.completions.create(
        model="joycaption",
        messages=HELLO,
        stream=True,
    )
    await chatty.begun.wait()
    await stream.close()

    async with asyncio.timeout(10):
        await chatty.left.wait()


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
async def test_the_servers_errors_are_passed_on_without_its_key(
    client: AsyncOpenAI, chatty: Chatty, status: int
) -> None:
    chatty.status = status
    for stream in (False, True):
        with pytest.raises(APIStatusError, match="as told") as caught:
            await client.chat.completions.create(
                model="joycaption",
                messages=HELLO,
                stream=stream,
            )
        assert caught.value.status_code == status
        assert caught.value.response.headers["retry-after"] == "7"
        assert "servers-own" not in caught.value.response.text


async def test_a_key_that_the_server_refuses_is_not_the_callers_fault(
    client: AsyncOpenAI, chatty: Chatty
) -> None:
    chatty.status = 401
    with pytest.raises(APIStatusError) as caught:
        await client.chat.completions.create(model="joycaption", messages=HELLO)

    assert caught.value.status_code == 503


async def test_a_question_about_an_earlier_picture_is_passed_through_with_the_picture_prepared(
    client: AsyncOpenAI, chatty: Chatty, ask: Ask, picture: str
) -> None:
    messages = [
        *ask("What is it?"),
        {"role": "assistant", "content": "A red square."},
        {"role": "user", "content": "How large?"},
    ]
    reply = await client.chat.completions.create(model="joycaption", messages=messages)

    assert reply.choices[0].message.content == "Hi there"
    sent = chatty.bodies[0]["messages"]
    assert sent[1:] == messages[1:]
    url = sent[0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/")
    assert url != picture


async def test_a_question_about_one_of_several_pictures_is_refused(
    client: AsyncOpenAI, ask: Ask
) -> None:
    answer: Any = {"role": "assistant", "content": "A red square."}
    with pytest.raises(BadRequestError, match="holds 2"):
        await client.chat.completions.create(
            model="joycaption",
            messages=[*ask(), answer, *ask(), answer, {"role": "user", "content": "Larger?"}],
        )


async def test_an_option_for_captions_needs_a_picture(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="holds no picture"):
        await client.chat.completions.create(
            model="joycaption",
            messages=HELLO,
            extra_body={"caption_type": "straightforward"},
        )


async def test_a_chat_with_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError):
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)


async def test_parts_that_name_other_addresses_never_reach_the_server(
    client: AsyncOpenAI, chatty: Chatty
) -> None:
    part: Any = {"type": "video_url", "video_url": {"url": "http://10.0.0.1/"}}
    with pytest.raises(BadRequestError, match="video_url"):
        await client.chat.completions.create(
            model="joycaption",
            messages=[{"role": "user", "content": [part]}],
        )

    assert chatty.bodies == []


async def test_chats_keep_to_the_fleets_limit(client: AsyncOpenAI, chatty: Chatty) -> None:
    streams: list[Any] = [
        await client.chat.completions.create(
            model="joycaption",
            messages=HELLO,
            stream=True,
        )
        for _ in range(2)
    ]
    third = asyncio.create_task(client.chat.completions.create(model="joycaption", messages=HELLO))
    await asyncio.wait({third}, timeout=0.2)
    waited = len(chatty.bodies) == 2 and not third.done()
    chatty.go.set()
    await third
    for stream in streams:
        await stream.close()

    assert waited


async def test_a_server_that_breaks_off_a_stream_is_told_as_an_error(serve: Any) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            writer.write(b"Content-Length: 1000\r\n\r\ndata: {}\n\n")
        else:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"data": [{"id": "bad"}]}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(broken, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    options = CaptionerOptions(check=False, workers=1, model="bad")
    async with (
        server,
        Captioner(url, options=options) as captioner,
        serve(make_app(Context(captioner))) as gateway,
        httpx2.AsyncClient(base_url=gateway) as client,
    ):
        body = {"model": "joycaption", "messages": HELLO}
        reply = await client.post("/v1/chat/completions", json={**body, "stream": True})
        whole = await client.post("/v1/chat/completions", json=body)

    assert reply.status_code == 200
    assert reply.text.startswith("data: {}\n\ndata: ")
    assert "broke off" in orjson.loads(reply.text.split("data: ")[2])["error"]["message"]
    assert whole.status_code == 502


async def test_a_chat_goes_to_another_server_where_one_has_died(serve: Any) -> None:
    options = CaptionerOptions(check=False, workers=1, fleet=FleetOptions(patience=5.0))
    servers = [Chatty(), Chatty()]
    async with contextlib.AsyncExitStack() as stack:
        ups = [contextlib.AsyncExitStack() for _ in servers]
        urls = [
            await up.enter_async_context(serve(server.app))
            for up, server in zip(ups, servers, strict=True)
        ]
        captioner = await stack.enter_async_context(Captioner(*urls, options=options))
        gateway = await stack.enter_async_context(serve(make_app(Context(captioner))))
        client = await stack.enter_async_context(
            AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0)
        )
        await ups[0].aclose()
        for number in range(8):
            await client.chat.completions.create(
                model="joycaption", messages=[{"role": "user", "content": f"Chat {number}"}]
            )
        await ups[1].aclose()

    assert [len(server.bodies) for server in servers] == [0, 8]
