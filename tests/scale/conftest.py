"""A local Ray of two worker processes, and a small server in front of which it captions."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

# The extra `ray` is large and not everywhere: without it there is nothing here to collect.
HAS_RAY = importlib.util.find_spec("ray") is not None
_NEED_RAY = ["test_ray.py", "test_ray_kills.py", "test_ray_job.py"]
collect_ignore = [] if HAS_RAY else _NEED_RAY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not HAS_RAY:
        names = ", ".join(_NEED_RAY)
        terminalreporter.write_line(f"tests/scale: {names} left out: the extra `ray` is missing")


@dataclass
class Server:
    """Describes each picture; counts requests in flight, and gives a file to those who ask.

    Once there have been more than `stops_after` requests it holds them until `go_on`.
    """

    glitchy: bool = False
    stops_after: float = math.inf
    file: bytes = b""
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    held: int = 0
    _go_on: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None

    def go_on(self) -> None:
        """Answers again; for other threads."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._go_on.set)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        answer: dict[str, Any] = {"data": [{"id": "stub"}]}
        if scope["path"] == "/v1/chat/completions":
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message.get("more_body", False)
            self._loop = asyncio.get_running_loop()
            self.bodies.append(json.loads(body))
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            await asyncio.sleep(0.05)
            if len(self.bodies) > self.stops_after:
                self.held += 1
                await self._go_on.wait()
            self.in_flight -= 1
            text = "again " * 90 if self.glitchy else "A plain square in one colour."
            answer = {
                "model": "stub",
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 800, "completion_tokens": 9},
            }
        data = self.file if scope["path"] == "/picture.png" else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


@pytest.fixture
def server() -> Iterator[Server]:
    """The server, on a thread of its own, since Ray's driver blocks this one."""
    app = Server()
    listener = socket.create_server(("127.0.0.1", 0))
    app.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    config = uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield app
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="session")
def local_ray() -> Iterator[str]:
    """The address of a cluster of this machine, which all tests share."""
    import ray

    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def actors(title: str) -> list[int]:
    """Processes of the cluster's actors whose title begins so."""
    import ray._private.worker as ray_worker

    node: Any = ray_worker._global_node
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == raylet and name.startswith(f"ray::{title}"):
            found.append(int(folder.name))
    return sorted(found)


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until something is so."""
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it did not come so far"
        time.sleep(0.02)
