"""A line that a server puts off again and again holds up no other line and no other batch."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway import batches_later
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.batches import Batches
from joycap_vllm.gateway.batches_later import Later
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import Context

Ask = Callable[..., Any]
Serve = Callable[..., contextlib.AbstractAsyncContextManager[str]]
CAPTION = "A red circle lies in the middle of a plain white ground."


def picky() -> Starlette:
    """A server that is always full where it is asked about wine."""

    async def chat(request: Request) -> JSONResponse:
        if b"wine" in await request.body():
            return JSONResponse({"error": {"message": "full"}}, 503, {"Retry-After": "0"})
        message = {"role": "assistant", "content": CAPTION}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"model": "stub", "choices": [choice], "usage": {}})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/health", lambda _: JSONResponse({})),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


@pytest.fixture
async def client(tmp_path: Path, serve: Serve) -> AsyncIterator[AsyncOpenAI]:
    fleet = FleetOptions(concurrency=2, patience=0.5, impatient=True)
    options = CaptionerOptions(retries=0, workers=1, check=False, fleet=fleet)
    async with (
        serve(picky()) as server,
        Captioner(f"{server}/v1", options=options) as captioner,
        Batches(tmp_path, completions := Completions(captioner)) as batches,
        serve(make_app(Context(captioner, completions=completions, batches=batches))) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
    completions.close()


async def begun(client: AsyncOpenAI, *messages: Any, window: Any = "24h") -> str:
    rows = (
        {
            "custom_id": f"r{at}",
            "url": "/v1/chat/completions",
            "body": {"model": "joycaption", "messages": each},
        }
        for at, each in enumerate(messages)
    )
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    file = await client.files.create(file=("a.jsonl", io.BytesIO(data)), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=window
    )
    return batch.id


async def until(client: AsyncOpenAI, batch: str, good: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(20):
        while not good(found := await client.batches.retrieve(batch)):
            await asyncio.sleep(0.02)
    return found


def asked(kind: str, ask: Ask, text: str) -> Any:
    return ask(text) if kind == "picture" else [{"role": "user", "content": text}]


@pytest.mark.parametrize("kind", ["talk", "picture"])
async def test_the_other_lines_and_the_next_batch_are_answered_meanwhile(
    client: AsyncOpenAI, ask: Ask, kind: str
) -> None:
    wine = [asked(kind, ask, f"Which wine is {n}?") for n in range(6)]
    first = await begun(client, *wine, *(asked(kind, ask, f"Hm {n}?") for n in range(20)))
    second = await begun(client, asked(kind, ask, "And this?"))
    others = await until(client, first, lambda batch: batch.request_counts.completed == 20)
    next_one = await until(client, second, lambda batch: batch.status == "completed")

    assert others.status == "in_progress"
    assert next_one.request_counts.completed == 1


async def test_a_line_that_is_always_put_off_ends_as_an_error(
    client: AsyncOpenAI, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_later, "_PAUSE", (0.01, 0.02))
    batch = await begun(client, asked("talk", ask, "wine"), asked("talk", ask, "water"))
    ended = await until(client, batch, lambda found: found.status == "completed")
    error = orjson.loads((await client.files.content(ended.error_file_id)).content)

    assert (ended.request_counts.completed, ended.request_counts.failed) == (1, 1)
    assert (error["custom_id"], error["response"]["status_code"]) == ("r0", 503)


async def test_a_batch_with_a_line_put_off_ends_with_its_window_or_when_it_is_cancelled(
    client: AsyncOpenAI, ask: Ask
) -> None:
    short = await begun(client, asked("talk", ask, "wine"), window="1s")
    long = await begun(client, asked("talk", ask, "wine"))
    await until(client, long, lambda batch: batch.status == "in_progress")
    await client.batches.cancel(long)
    ended = [
        await until(client, batch, lambda found: found.status in ("expired", "cancelled"))
        for batch in (long, short)
    ]

    assert [batch.status for batch in ended] == ["cancelled", "expired"]


def test_what_is_put_off_while_no_server_can_be_asked_is_asked_for_ever() -> None:
    now = [100.0]
    later = Later(lambda: now[0])
    down = [later.put_off(1, down=True) for _ in range(1000)]
    up = [later.put_off(1, down=False) for _ in range(8)]
    pauses = []
    for _ in range(8):
        later.rest()
        pauses.append(later.due - now[0])

    assert all(down)
    assert up == [True] * 7 + [False]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
