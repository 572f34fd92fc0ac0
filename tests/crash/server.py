"""The fault server as a process of its own that can be killed and stopped, and that keeps a log.

A line of the log for each request it gets, and one for each that it has answered, written at once,
so that they outlive it: `{"id": ..., "life": <API key>, "number": <the picture's colour as a
number>, "prompt": ..., "t": seconds since 1970}` and `{"id": ..., "answered": seconds}`. What
comes over its line changes what it does, and is confirmed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from fault_server import Asked, FaultServer, Reaction, fail, name_of, say
from forking import CONTEXT

HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
FAULTS = {
    "html": Reaction(garbage=HTML, headers={"Content-Type": "text/html"}),
    "cut json": Reaction(garbage=b'{"id": "chatcmpl-1", "choices": [{"mess'),
    "nothing": Reaction(garbage=b""),
    "other json": Reaction(garbage=b'["no", "chat", "completion"]'),
    "closes mid-body": Reaction(text="half an ans", half=True),
    "reset": Reaction(reset=True),
    "silent": Reaction(hang=True),
    "500": fail(500),
    "503": fail(503, retry_after="0.2"),
    "429": fail(429, retry_after="0.2"),
}
SIGNALS = {"dies": signal.SIGKILL, "stops": signal.SIGSTOP}  # what it does to itself


def number_of(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def color_of(number: int) -> tuple[int, int, int]:
    return (number >> 16, number >> 8 & 255, number & 255)


def caption_of(number: int) -> str:
    return name_of(color_of(number))


class _Logging(FaultServer):
    """Answers each picture with its own colour, after a while, unless it is told other things."""

    def __init__(self, log: int, port: int) -> None:
        self.faults: list[str] = []
        self.attempts: int | None = None
        self.after = 0
        self.delay = (0.0, 0.0)
        self._log = log
        super().__init__(self._reaction, port=port, keep=False)

    def _reaction(self, asked: Asked) -> Reaction:
        fits = self.attempts is None or asked.attempt <= self.attempts
        if self.faults and fits and self.requests > self.after:
            fault = self.faults[number_of(asked.color) % len(self.faults)]
            if fault in FAULTS:
                return FAULTS[fault]
            self.faults = []
            os.kill(os.getpid(), SIGNALS[fault])
        return say(name_of(asked.color), delay=random.uniform(*self.delay))

    async def _react(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = f"{os.getpid()}-{self.requests}"
        number = number_of(asked.color)
        self._note(id=name, life=asked.key, number=number, prompt=asked.question, t=time.time())
        await super()._react(asked, writer)
        self._note(id=name, answered=time.time())

    def _note(self, **line: Any) -> None:
        os.write(self._log, json.dumps(line).encode() + b"\n")


class ServerProcess:
    """That process; use it as a context manager.

    Args:
        log: The file it adds its log to.
        delay: The shortest and the longest time that an answer takes, in seconds.
    """

    def __init__(self, log: Path, delay: tuple[float, float] = (0.0, 0.0)) -> None:
        self.log = log
        self._told: dict[str, Any] = {"delay": delay}
        self._port = self._read = self._asked = 0
        self._process: ForkServerProcess | None = None
        self.start()

    def start(self, **told: Any) -> None:
        """Starts it, or starts it again at the same port, and tells it what to do."""
        self.kill()
        self._line, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve, args=(theirs, self.log, self._port))
        self._process.start()
        theirs.close()
        self._port = self._line.recv()
        self.tell(**told)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def tell(self, **told: Any) -> None:
        """Changes what it does from now on.

        Args:
            told: `delay` as above; `faults`, names of FAULTS or SIGNALS that pictures get in turn;
                `attempts`, how many attempts at a task get them, or None for all; `after`, how many
                requests come before the first fault.
        """
        self._told |= told
        self._line.send(self._told)
        assert self._line.recv() == "done"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._line.close()

    def wait_for_signal(self) -> None:
        """Waits until it has killed or stopped itself."""
        assert self._process is not None
        end, status = time.monotonic() + 90, Path(f"/proc/{self._process.pid}/stat")
        while self._process.is_alive() and _state(status) not in ("T", ""):
            assert time.monotonic() < end, "the server goes on"
            time.sleep(0.005)

    def go_on(self) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def asked(self) -> int:
        """How many requests it has got so far, over all its lives."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        self._asked += data.count(b'"life"')
        return self._asked

    def wait_for(self, requests: int, seconds: float = 90) -> None:
        """Waits until it has got so many requests."""
        end = time.monotonic() + seconds
        while self.asked() < requests:
            assert time.monotonic() < end, f"only {self.asked()} requests came"
            time.sleep(0.005)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def serve(line: Connection, log: Path, port: int) -> None:
    """Serves until it is killed; tells its port and hears what to do on the line."""
    server = _Logging(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), port)
    line.send(server.port)
    while True:
        try:
            told = line.recv()
        except EOFError:
            return
        for name, value in told.items():
            setattr(server, name, value)
        line.send("done")


def _state(status: Path) -> str:
    """The letter of a process's state as its file in /proc tells it; empty once it is gone."""
    try:
        return status.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
