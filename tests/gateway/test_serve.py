"""`joycap gateway` as a process: addresses, signals, exit codes."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.gateway import GatewayOptions, serve_gateway
from joycap_vllm.gateway.serve import is_loopback

from .commands import command

CAPTION = "A red circle lies in the middle of a plain white ground."


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if words in line.decode():
            return line.decode()
    raise AssertionError(f"ended without saying {words!r}")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
async def test_the_command_serves_until_a_signal(
    upstream: Any, serve: Any, ask: Callable[..., Any], number: signal.Signals, code: int
) -> None:
    port = free_port()
    async with (
        serve(upstream.app) as url,
        command("--port", str(port), "--base-url", url) as process,
    ):
        said = await line_with(process, "listening on")
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
            reply = await client.chat.completions.create(model="joycaption", messages=ask())
        process.send_signal(number)
        ended = await process.wait()

    assert said == f"joycap: listening on http://127.0.0.1:{port}/v1\n"
    assert reply.choices[0].message.content == CAPTION
    assert ended == code


async def test_without_an_endpoint_the_command_ends_with_3_and_one_line() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with command("--port", str(free_port()), "--base-url", nobody) as process:
        _, said = await process.communicate()

    assert process.returncode == 3
    assert said.decode().startswith(f"joycap: {nobody}/v1")
    assert b"Traceback" not in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_an_address_that_others_can_reach_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="--keys-file"):
        serve_gateway(GatewayOptions(host=host), talk=print)


def test_an_empty_keys_file_opens_no_door(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch()

    with pytest.raises(UsageError, match="holds no key"):
        serve_gateway(GatewayOptions(host="0.0.0.0", keys_file=file), talk=print)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_none(host: str) -> None:
    assert is_loopback(host)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}"):
            serve_gateway(GatewayOptions(port=port), talk=print)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    with pytest.raises(MissingExtraError, match=r"joycap-vllm\[web\]"):
        serve_gateway(GatewayOptions(), talk=print)
