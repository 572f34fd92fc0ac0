"""A server that lives and does not work is told from one that does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from server_help import fake_plan
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from joycap_vllm.server import State, engine
from joycap_vllm.server.pulse import Pulse, until_hung

from fault_server import serving
from prompt_server import serving_app

QUICK = Pulse(every=0.02, deaf=3, patience=0.3)


@contextlib.asynccontextmanager
async def vllm(seconds: float, moves: bool = False) -> AsyncIterator[tuple[str, list[float]]]:
    """A server whose answers take so long and whose counters move or not; when it was asked."""
    asked: list[float] = []
    looks = itertools.count()

    async def chat(_: Request) -> JSONResponse:
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        return JSONResponse({})

    async def metrics(_: Request) -> PlainTextResponse:
        return PlainTextResponse(f"vllm:generation_tokens_total {next(looks) if moves else 7}")

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/metrics", metrics),
    ]
    async with serving_app(Starlette(routes=routes)) as url:
        yield f"{url}/v1", asked


async def test_an_engine_that_writes_nothing_any_more_is_told_of() -> None:
    async with vllm(seconds=60) as (url, _), asyncio.timeout(20):
        error = await until_hung(url, "x", None, QUICK)

    assert str(error) == "vLLM lives and wrote no token in 0.3 s"


async def test_a_server_that_is_not_there_any_more_is_told_of() -> None:
    with serving() as server:
        url = server.url
    async with asyncio.timeout(20):
        error = await until_hung(url, "fault", None, QUICK)

    assert str(error) == "vLLM lives and answered none of 3 looks in a row"


async def test_an_engine_that_answers_is_asked_again_and_again() -> None:
    async with vllm(seconds=0) as (url, asked):
        looking = asyncio.create_task(until_hung(url, "x", None, QUICK))
        while len(asked) < 5:
            await asyncio.sleep(0.02)
        assert not looking.done()
        looking.cancel()


async def test_an_engine_whose_counts_move_is_asked_nothing() -> None:
    async with vllm(seconds=0, moves=True) as (url, asked):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await until_hung(url, "x", None, QUICK)

    assert asked == []


@pytest.mark.parametrize("flags", [(), ("--ignore-term",)])
async def test_a_server_that_hangs_is_started_again(tmp_path: Path, flags: tuple[str, ...]) -> None:
    pulse = replace(QUICK, every=0.2, deaf=1, look=1)
    plan = replace(fake_plan(tmp_path, *flags, grace=0.5), pause=0.01, pulse=pulse)

    async with engine(plan, on_line=lambda _: None) as servers:
        (tender,) = servers.tenders
        with contextlib.suppress(OSError):
            await asyncio.to_thread(
                urllib.request.urlopen,
                f"http://127.0.0.1:{plan.replicas[0].port}/hang",
                timeout=0.2,
            )
        async with asyncio.timeout(40):
            while tender.restarts == 0 or tender.state is not State.READY:
                await asyncio.sleep(0.05)
