"""A server that costs next to nothing: so many slots, so many seconds an answer, and its own books.

It reads a request only as far as its length, so that what is measured is the client. As a script it
serves until it is killed: ``stub_server.py --port 9000 --slots 256 --latency 1``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TEXT = (
    "A photograph of a narrow cobbled street between old brick houses in the late afternoon. "
    "A woman in a red coat walks away from the viewer, and a small brown dog trots beside her."
)


@dataclass(frozen=True)
class StubOptions:
    """How a stub behaves.

    Args:
        slots: Requests worked on at once; the others wait.
        latency: Mean seconds that a request takes once it has a slot.
        sigma: Of the lognormal spread of these seconds; 0 makes all requests alike.
        front: Seconds of a front end that works on one request at a time before it may wait.
        metrics: Whether `/metrics` shows vLLM's gauges, which makes the stub a vLLM to clients.
        queue: Most requests that wait; more are answered 503. None takes all.
        port: 0 takes a free one.
    """

    slots: int = 256
    latency: float = 1.0
    sigma: float = 0.0
    front: float = 0.0
    metrics: bool = True
    queue: int | None = None
    port: int = 0


class Engine:
    """Slots, a queue before them, and a front end before that."""

    def __init__(self, options: StubOptions) -> None:
        self.options = options
        self.running = 0
        self.queued: deque[Callable[[], None]] = deque()
        self.requests = self.peak = self.open = self.bytes = self.refused = 0
        self._front_free = self._work = self._waited = 0.0
        self._last = asyncio.get_running_loop().time()

    def take(self, size: int, answer: Callable[[], None]) -> bool:
        """Takes a request whose `answer` is called when it is done; False where it is full."""
        self.bytes += size
        if self.options.queue is not None and len(self.queued) >= self.options.queue:
            self.refused += 1
            return False
        self.requests += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        if not self.options.front:
            self._enter(answer)
            return True
        loop = asyncio.get_running_loop()
        self._front_free = max(self._front_free, loop.time()) + self.options.front
        loop.call_at(self._front_free, self._enter, answer)
        return True

    def _enter(self, answer: Callable[[], None]) -> None:
        self._pass_time()
        if self.running >= self.options.slots:
            self.queued.append(answer)
            return
        self.running += 1
        asyncio.get_running_loop().call_later(self._seconds(), self._done, answer)

    def _seconds(self) -> float:
        latency, sigma = self.options.latency, self.options.sigma
        return latency * random.lognormvariate(-(sigma**2) / 2, sigma) if sigma else latency

    def _pass_time(self) -> None:
        """Brings the books up to now."""
        last, self._last = self._last, asyncio.get_running_loop().time()
        self._work += (self._last - last) * self.running
        self._waited += (self._last - last) * len(self.queued)

    def _done(self, answer: Callable[[], None]) -> None:
        self._pass_time()
        self.running -= 1
        self.open -= 1
        answer()
        if self.queued:
            self._enter(self.queued.popleft())

    def stats(self) -> dict[str, float]:
        """Counts since the start; `work` and `waited` are the seconds that all requests together
        have had a slot and have waited for one, `cpu` the process's, `now` is its clock."""
        self._pass_time()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "requests": self.requests,
            "running": self.running,
            "waiting": len(self.queued),
            "open": self.open,
            "peak": self.peak,
            "refused": self.refused,
            "bytes": self.bytes,
            "work": self._work,
            "waited": self._waited,
            "now": self._last,
            "cpu": used.ru_utime + used.ru_stime,
        }


class Speaker(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as clients of the OpenAI API speak it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._head = bytearray()
        self._left = 0
        self._size = 0
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if self._left <= 0:
                self._respond()
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._head[:end])
        length = _LENGTH.search(head)
        self._size = int(length[1]) if length else 0
        self._path = head.split(b" ", 2)[1]
        self._left = self._size - (len(self._head) - end - 4)
        self._head.clear()
        if self._left <= 0:
            self._respond()

    def _respond(self) -> None:
        self._left = 0
        if self._path == b"/v1/chat/completions":
            if not self._engine.take(self._size, self._answer):
                self._send(b'{"error":{"message":"busy, try another instance"}}', b"503 Busy")
            return
        body = self._page(self._path)
        self._send(body or b"{}", b"200 OK" if body is not None else b"404 Not Found")

    def _page(self, path: bytes) -> bytes | None:
        engine = self._engine
        if path == b"/health":
            return b""
        if path == b"/stats":
            return json.dumps(engine.stats()).encode()
        if path == b"/v1/models":
            owner = "vllm" if engine.options.metrics else "stub"
            return json.dumps({"data": [{"id": "stub", "owned_by": owner}]}).encode()
        if path == b"/version" and engine.options.metrics:
            return b'{"version":"0.32.0"}'
        if path == b"/metrics" and engine.options.metrics:
            return (
                f'vllm:num_requests_running{{engine="0"}} {engine.running}.0\n'
                f'vllm:num_requests_waiting{{engine="0"}} {len(engine.queued)}.0\n'
            ).encode()
        return None

    def _answer(self) -> None:
        self._send(_ANSWER, b"200 OK")

    def _send(self, body: bytes, status: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )


_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 780, "completion_tokens": 40, "total_tokens": 820},
    }
).encode()


async def serve(options: StubOptions, ready: Callable[[int], None]) -> None:
    """Serves until it is cancelled; `ready` is told the port."""
    engine = Engine(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Speaker(engine), "127.0.0.1", options.port, backlog=4096
    )
    ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


class Stub:
    """A stub in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    def stats(self) -> dict[str, Any]:
        """As `Engine.stats`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as answer:
            stats: dict[str, Any] = json.load(answer)
            return stats


@contextmanager
def stub(options: StubOptions | None = None) -> Iterator[Stub]:
    """Starts a stub, and kills it on the way out."""
    given = json.dumps(asdict(options or StubOptions()))
    command = [sys.executable, __file__, "--as-json", given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Stub(int(process.stdout.readline()))
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-json", help="all options; prints the port")
    for field in fields(StubOptions):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default or 0), default=default)
    given = vars(parser.parse_args())
    told = given.pop("as_json")
    options = StubOptions(**(json.loads(told) if told else given))
    asyncio.run(serve(options, lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()
