"""A scripted OpenAI-compatible server whose faults are exact.

A script looks at each request (which picture, which attempt) and says what happens: an answer with
a finish reason, an HTTP error, a delay, a reset, half a body, silence. It speaks plain HTTP over
its own socket, since no framework sends half a body on purpose.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Asked:
    """One chat completion request, as far as scripts care.

    `question` is the prompt as it was first asked about the picture, without what later attempts
    put before or behind it; `attempt` counts from 1; `key` is the API key.
    """

    image: str
    question: str
    attempt: int
    prompt: str
    system: str
    body: dict[str, Any]
    raw: bytes
    key: str = ""

    @cached_property
    def color(self) -> Color:
        """The colour in the middle of the picture."""
        encoded = self.image.split(",", 1)[1]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            pixel = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
        assert isinstance(pixel, tuple)
        return (int(pixel[0]), int(pixel[1]), int(pixel[2]))


@dataclass(frozen=True)
class Reaction:
    """What happens to a request."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False
    half: bool = False
    hang: bool = False
    garbage: bytes | None = None


Script = Callable[[Asked], Reaction]


def say(text: str, finish: str = "stop", delay: float = 0.0) -> Reaction:
    """An answer."""
    return Reaction(text=text, finish=finish, delay=delay)


def fail(status: int, message: str = "broken on purpose", **headers: str) -> Reaction:
    """An HTTP error in OpenAI's form; header names take _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reaction(status=status, text=message, headers=named)


def name_of(color: Color) -> str:
    """A caption that tells its own picture: its colour in hex."""
    return f"A plain picture in the color {color[0]:02x}{color[1]:02x}{color[2]:02x}."


def truthful(asked: Asked) -> Reaction:
    """The default script: every picture gets the caption, or the tags, that tell its colour."""
    name = name_of(asked.color)
    return say(f"plain picture, {name[-7:-1]}" if "tag" in asked.prompt.lower() else name)


class FaultServer:
    """Runs in a thread of its own until closed; `url` is its base URL.

    It keeps every request in `asked`, unless it is told not to; `requests` counts them.
    """

    def __init__(
        self,
        script: Script = truthful,
        *,
        model: str = "fault",
        port: int = 0,
        keep: bool = True,
    ) -> None:
        self.script = script
        self.model = model
        self.asked: list[Asked] = []
        self.requests = 0
        self.peak = 0
        self.gauges: tuple[int, int] | None = None
        self._keep = keep
        self._tries: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._now = 0
        self._connections: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._connection, "127.0.0.1", port)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def in_hand(self) -> int:
        """Requests that it works on by now."""
        return self._now

    def close(self) -> None:
        """Drops every connection and stops listening."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _shut(self) -> None:
        await let_in_no_more(self._server)
        for writer in self._connections:
            writer.transport.abort()
        rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets one step later

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = reader
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = head.decode("latin-1").split(" ")
                lengths = [
                    line.split(":")[1]
                    for line in head.decode("latin-1").lower().split("\r\n")
                    if line.startswith("content-length:")
                ]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                key = head.decode("latin-1").partition("uthorization: Bearer ")[2].split("\r\n")[0]
                await self._serve(method, path, body, key, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _serve(
        self, method: str, path: str, body: bytes, key: str, writer: asyncio.StreamWriter
    ) -> None:
        if method == "POST" and path == "/v1/chat/completions":
            self._now += 1
            self.peak = max(self.peak, self._now)
            try:
                await self._react(self._understood(body, key), writer)
            finally:
                self._now -= 1
        elif path == "/v1/models":
            models = [{"id": self.model, "owned_by": "tests"}] if self.model else []
            await _send(writer, 200, {"data": models})
        elif path == "/health":
            await _send(writer, 200, {})
        elif path == "/metrics" and self.gauges is not None:
            running, waiting = self.gauges
            text = (
                f'vllm:num_requests_running{{engine="0"}} {running}.0\n'
                f'vllm:num_requests_waiting{{engine="0"}} {waiting}.0\n'
            )
            await _send(writer, 200, text)
        else:
            await _send(writer, 404, {"error": {"message": f"no {path} here"}})

    def _understood(self, raw: bytes, key: str) -> Asked:
        body = json.loads(raw)
        system = "".join(m["content"] for m in body["messages"] if m["role"] == "system")
        image, text = body["messages"][-1]["content"]
        url, prompt = image["image_url"]["url"], text["text"]
        tries = self._tries[hash(url)]
        question = max((q for q in tries if q in prompt), key=len, default=prompt)
        tries[question] += 1
        asked = Asked(url, question, tries[question], prompt, system, body, raw, key)
        self.requests += 1
        if self._keep:
            self.asked.append(asked)
        return asked

    async def _react(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        reaction = self.script(asked)
        await asyncio.sleep(reaction.delay)
        if reaction.hang:
            await self._connections[writer].read(1)
            raise ConnectionError  # the client has gone
        if reaction.reset:
            writer.transport.abort()
            return
        if reaction.garbage is not None:
            await _send(writer, reaction.status, reaction.garbage, reaction.headers)
            return
        if reaction.status != 200:
            error = {"error": {"message": reaction.text, "type": "test", "code": reaction.status}}
            await _send(writer, reaction.status, error, reaction.headers)
            return
        message = {"role": "assistant", "content": reaction.text}
        answer = {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": reaction.finish}],
            "usage": {"prompt_tokens": 800, "completion_tokens": len(reaction.text.split())},
        }
        await _send(writer, 200, answer, half=reaction.half)


async def let_in_no_more(server: asyncio.Server) -> None:
    """Closes a server once each connection that it has accepted has its handler.

    asyncio drops the socket of one that was accepted in the step in which its server is closed.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    answer: Any,
    headers: dict[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    if isinstance(answer, bytes):
        body = answer
    else:
        body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    lines = [
        f"HTTP/1.1 {status} Test",
        f"Content-Length: {len(body)}",
        *(
            f"{name}: {value}"
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items()
        ),
    ]
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    writer.write(data[: -len(body) // 2] if half else data)
    await writer.drain()
    if half:
        writer.transport.abort()


@contextlib.contextmanager
def serving(script: Script = truthful, **options: Any) -> Iterator[FaultServer]:
    """A fault server for the length of a block."""
    server = FaultServer(script, **options)
    try:
        yield server
    finally:
        server.close()
