"""How far servers are, and the form in which pictures travel there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.fleet import Endpoint, Place, find_places, form_for, measure
from joycap_vllm.fleet.distance import NEAR

from fault_server import FaultServer

ENDED = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
HERE = Place("http://127.0.0.1:8000/v1", vllm=True, loopback=True)
OTHER = Place("http://127.0.0.1:11434/v1", vllm=False, loopback=True)


def away(rate: float | None, *, vllm: bool = True) -> Place:
    return Place("http://gpu:8000/v1", vllm, False, rate)


@contextlib.asynccontextmanager
async def reading(
    pace: float, status: int = 400, *, hasty: bool = False
) -> AsyncIterator[Endpoint]:
    """A server that reads 64 KB, waits `pace` seconds, reads on, and refuses every body; a hasty
    one, as those in Go, at the first byte that shows that it cannot be JSON."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        working.append((asyncio.current_task(), writer))
        with contextlib.suppress(*ENDED):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                left = int(head.split("content-length:")[1].split()[0])
                refusal = f"HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\n{{}}".encode()
                begin = await reader.readexactly(min(left, 2))
                refused = hasty and begin.startswith(b"--")
                if refused:
                    writer.write(refusal)
                left -= len(begin)
                while left:
                    left -= len(await reader.readexactly(min(left, 1 << 16)))
                    await asyncio.sleep(pace if left else 0)
                if not refused:
                    writer.write(refusal)

    working: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield endpoint
    finally:
        await endpoint.close()
        server.close()
        for task, writer in working:
            if task is not None:
                task.cancel()
                await asyncio.wait({task}, timeout=5)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_a_server_near_by_is_seen_to_be_fast() -> None:
    async with reading(pace=0) as endpoint:
        rate = await measure(endpoint)

    assert rate is not None
    assert rate > NEAR


@pytest.mark.parametrize("hasty", [False, True])
async def test_a_server_behind_a_slow_line_is_seen_to_be_slow(hasty: bool) -> None:
    # 10 parts and 9 pauses: 90 ms at least
    async with reading(pace=0.01, hasty=hasty) as endpoint:
        rate = await measure(endpoint)

    assert rate is not None
    assert 600_000 / 1.0 < rate < 600_000 / 0.08


async def test_what_takes_over_a_second_is_not_waited_for() -> None:
    start = asyncio.get_running_loop().time()
    async with reading(pace=1) as endpoint:
        assert await measure(endpoint) is None

    assert asyncio.get_running_loop().time() - start < 3


@pytest.mark.parametrize("status", [200, 401, 404, 413, 500])
async def test_a_server_that_does_not_say_that_it_read_the_body_tells_nothing(status: int) -> None:
    async with reading(pace=0, status=status) as endpoint:
        assert await measure(endpoint) is None


async def test_a_dead_server_tells_nothing() -> None:
    endpoint = Endpoint("http://127.0.0.1:9")
    try:
        assert await measure(endpoint) is None
    finally:
        await endpoint.close()


async def test_servers_on_this_machine_are_not_measured(server: FaultServer) -> None:
    endpoint = Endpoint(server.url)
    try:
        await endpoint.probe(None)
        assert await find_places([endpoint]) == [Place(server.url, vllm=False, loopback=True)]
    finally:
        await endpoint.close()
    assert server.requests == 0


def test_pictures_travel_as_far_as_they_can_without_loss() -> None:
    assert form_for([HERE])[0] == "bmp"
    assert form_for([HERE, OTHER])[0] == "png0"
    assert form_for([HERE, away(NEAR)])[0] == "bmp"
    assert form_for([away(1e9, vllm=False)])[0] == "png0"
    assert form_for([HERE, away(NEAR - 1)])[0] == "jpeg"
    assert form_for([HERE, away(None)])[0] == "jpeg"


def test_where_others_may_join_pictures_travel_in_a_form_that_all_servers_read() -> None:
    assert form_for([HERE, away(NEAR)], others=True)[0] == "png0"
    assert form_for([HERE, away(NEAR - 1)], others=True)[0] == "jpeg"


def test_why_is_told_by_the_slowest() -> None:
    assert "gpu:8000/v1 carries 3.0 MB/s" in form_for([HERE, away(9e6), away(3e6)])[1]
    assert "gpu:8000/v1 carries could not be measured" in form_for([away(9e6), away(None)])[1]
    assert "30 MB/s at least" in form_for([away(30e6), away(1e9), HERE])[1]


@given(st.lists(st.floats(0, 1e10) | st.none(), min_size=1), st.lists(st.booleans()))
def test_one_slow_server_is_enough(rates: list[float | None], here: list[bool]) -> None:
    places = [away(rate) for rate in rates] + [HERE if vllm else OTHER for vllm in here]
    slow = any(rate is None or rate < NEAR for rate in rates)

    assert (form_for(places)[0] == "jpeg") == slow
