"""Clients of the OpenAI API, run by the lines of the README."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from .reading import Row, block, rows
from fault_server import Asked, Reaction, say, serving, truthful

CLIENTS = [row for row in rows("client") if row.checked == "test"]
HERE = "http://127.0.0.1:8080/v1"
TEXT = "Describe it."
COLOR = (200, 40, 80)
CAPTION = "A plain picture in the color c82850."


def asked_by(row: Row, url: str, model: str, text: str = TEXT) -> str:
    """What a client's line gives for `dog.jpg` in the working directory."""
    import litellm
    from langchain_openai import ChatOpenAI
    from openai import OpenAI

    litellm.suppress_debug_info = True
    names: dict[str, Any] = {"OpenAI": OpenAI, "ChatOpenAI": ChatOpenAI, "litellm": litellm}
    exec(block("python").replace(HERE, url).replace(TEXT, text), names)  # noqa: S102
    (line,) = row.code
    return str(eval(line.replace("joycaption", model), names))  # noqa: S307


def glitches_first(asked: Asked) -> Reaction:
    """A loop for each first attempt, which those that follow tell by their temperature."""
    first = asked.body["temperature"] == 0.6
    return say("a red car, " * 60) if first else truthful(asked)


@contextlib.contextmanager
def judging_gateway() -> Iterator[str]:
    """`joycap gateway` in front of a server whose first answer is a loop."""
    with serving(glitches_first, model="stub") as server, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        call = "from joycap_vllm.cli import main; main()"
        flags = ["gateway", "--port", str(port), "--base-url", server.url, "--wire", "png"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JOYCAP_")}
        process = subprocess.Popen(
            [sys.executable, "-c", call, *flags],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ready", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.communicate(timeout=20)


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 45
    while time.monotonic() < until:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            if httpx2.get(url, timeout=2).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise TimeoutError(url)


def is_caption(text: str) -> bool:
    """JPEG may change a colour a little."""
    color = bytes.fromhex(text.removeprefix(CAPTION[:-7]).removesuffix("."))
    return all(abs(one - other) <= 4 for one, other in zip(color, COLOR, strict=True))
