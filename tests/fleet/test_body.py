"""A request's bytes on their way: exact, whole each time, and gone once they are sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet import Body, Endpoint, request_body
from joycap_vllm.fleet.body import PIECE
from joycap_vllm.images import Picture, Prepared

ANSWER = json.dumps(
    {"choices": [{"message": {"content": "A dog."}, "finish_reason": "stop"}]}
).encode()


def body_with(picture: bytes | Picture) -> Body:
    return request_body(
        model="m",
        system="Be helpful.",
        text="What?",
        picture=picture,
        mime="image/bmp",
        sampling={},
    )


@dataclass
class Door:
    """A server that keeps what it reads, counts who waits, and answers once it is let.

    `keep` keeps bodies; `breaks` is how many connections it still breaks before it answers.
    """

    url: str = ""
    keep: bool = True
    breaks: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    read: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._take(reader)
                self.read.release()
                if self.breaks:
                    self.breaks -= 1
                    break
                if not self.answer.is_set() and await self._is_left(reader):
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER))
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            self.closed.set()

    async def _take(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        found = re.search(r"(?i)content-length: (\d+)", head)
        assert found is not None
        left, parts = int(found[1]), []
        while left:
            parts.append(await reader.readexactly(min(left, 1 << 15)))
            left -= len(parts[-1])
            if not self.keep:
                parts.clear()
                parts.append(b"")
        self.bodies.append(b"".join(parts))

    async def _is_left(self, reader: asyncio.StreamReader) -> bool:
        """Waits until it may answer, or nobody waits for that any more."""
        gone = asyncio.create_task(reader.read(1))
        let = asyncio.create_task(self.answer.wait())
        await asyncio.wait({gone, let}, return_when=asyncio.FIRST_COMPLETED)
        let.cancel()
        if gone.done():
            return True
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        return False


@contextlib.asynccontextmanager
async def door(*, keep: bool = True, breaks: int = 0, opened: bool = True) -> AsyncIterator[Door]:
    made = Door(keep=keep, breaks=breaks)
    if opened:
        made.answer.set()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()


@contextlib.asynccontextmanager
async def endpoint_of(url: str) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(url)
    try:
        yield endpoint
    finally:
        await endpoint.close()


BORDERS = sorted({n * PIECE + more for n in (0, 1, 2) for more in range(-4, 5) if n or more >= 0})


@given(st.one_of(st.binary(max_size=20), st.sampled_from(BORDERS).map(lambda n: b"\x07\xff" * n)))
def test_the_pieces_make_the_json_that_an_encoder_would_make(picture: bytes) -> None:
    body = body_with(picture)
    url = f"data:image/bmp;base64,{base64.b64encode(picture).decode()}"
    user = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "What?"},
        ],
    }
    messages = [{"role": "system", "content": "Be helpful."}, user]

    whole = b"".join(body.pieces(picture))

    assert len(whole) == len(body)
    assert json.loads(whole) == {"model": "m", "messages": messages, "stream": False}


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 442_422])
async def test_a_request_tells_its_exact_length_and_is_not_sent_in_chunks(size: int) -> None:
    body = body_with(bytes(size))
    async with door() as served, endpoint_of(served.url) as endpoint:
        answer = await endpoint.send(body, 20)

    assert answer.text == "A dog."
    assert served.bodies == [b"".join(body.pieces(bytes(size)))]
    head = served.heads[0].lower()
    assert f"content-length: {len(body)}\r\n" in head
    assert "content-type: application/json\r\n" in head
    assert "transfer-encoding" not in head


async def test_after_a_broken_connection_the_whole_request_is_sent_again() -> None:
    body = body_with(picture := bytes(3 * PIECE))
    async with door(breaks=1) as served, endpoint_of(served.url) as endpoint:
        with pytest.raises(TransportError, match="broke"):
            await endpoint.send(body, 20)
        await endpoint.send(body, 20)

    assert served.bodies == [b"".join(body.pieces(picture))] * 2


async def test_at_the_deadline_the_server_sees_the_connection_close() -> None:
    async with door(opened=False) as served, endpoint_of(served.url) as endpoint:
        with pytest.raises(TransportError, match="no answer within"):
            await endpoint.send(body_with(b"picture"), 0.2)
        await asyncio.wait_for(served.closed.wait(), 5)

    assert len(served.bodies) == 1


async def held_in_flight(bodies: Iterable[Body]) -> int:
    """Bytes that requests hold whose answers are awaited, with what was made for them."""
    async with door(keep=False, opened=False) as served, endpoint_of(served.url) as endpoint:
        tracemalloc.start()
        try:
            requests = [asyncio.create_task(endpoint.send(body, 30)) for body in bodies]
            for _ in requests:
                await served.read.acquire()
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        served.answer.set()
        await asyncio.gather(*requests)
    return held


async def test_requests_in_flight_hold_nothing_but_their_pictures() -> None:
    picture, count = bytes(300_000), 30
    held = await held_in_flight(body_with(picture) for _ in range(count))

    assert held < count * len(body_with(picture)) / 3


async def test_a_picture_that_can_be_had_again_takes_no_memory_while_answers_are_awaited() -> None:
    size, count = 300_000, 30

    def make() -> Prepared:
        return Prepared(bytes(size), "image/bmp", 1, 1, 1, "ab" * 32)

    async def again() -> Prepared:
        return make()

    held = await held_in_flight(body_with(Picture(make(), again=again)) for _ in range(count))

    assert held < count * size / 3
