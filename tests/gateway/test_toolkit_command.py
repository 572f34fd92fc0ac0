"""`joycap gateway --ai-toolkit` as a process: its port, AI-Toolkit's variables, its end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway import Defaults, toolkit_defaults

from .commands import command


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def said_until(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stderr is not None
    said = ""
    async for line in process.stderr:
        said += line.decode()
        if words in said:
            return said
    raise AssertionError(f"ended without saying {words!r}: {said}")


async def test_it_captions_by_path_on_the_services_port_and_ends_when_told(
    upstream: Any, serve: Any, tmp_path: Path
) -> None:
    port = free_port()
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 48), (200, 30, 40)).save(picture)
    async with (
        serve(upstream.app) as url,
        command(
            "--ai-toolkit", "--base-url", url, "--root", tmp_path, CAPTION_PORT=str(port)
        ) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        said = await said_until(process, f"CAPTION_SERVICE_URL={address}\n")
        async with httpx2.AsyncClient(base_url=address) as client:
            health = (await client.get("/health")).json()
            caption = await client.post("/caption", json={"image_path": str(picture)})
            ending = await client.post("/shutdown", json={})
        code = await process.wait()

    assert f"listening on {address}/v1" in said
    assert (health["status"], health["model_loaded"]) == ("healthy", True)
    assert caption.json()["success"] is True
    assert ending.json()["status"] == "shutting_down"
    assert code == 0


async def test_flags_win_over_the_services_variables_and_without_roots_it_says_how_to_allow_some(
    upstream: Any, serve: Any
) -> None:
    port = free_port()
    flags = ("--ai-toolkit", "--port", str(port), "--host", "127.0.0.1", "--model", "stub")
    variables = {"CAPTION_PORT": "1", "CAPTION_HOST": "192.0.2.7", "CAPTION_MODEL": "other"}
    async with (
        serve(upstream.app) as url,
        command(*flags, "--base-url", url, **variables) as process,
    ):
        said = await said_until(process, "--root")

    assert f"http://127.0.0.1:{port}/v1" in said


async def test_the_services_model_is_the_one_that_is_asked_for(upstream: Any, serve: Any) -> None:
    async with (
        serve(upstream.app) as url,
        command(
            "--ai-toolkit", "--base-url", url, CAPTION_PORT=str(free_port()), CAPTION_MODEL="other"
        ) as process,
    ):
        _, said = await process.communicate()

    assert process.returncode == 3
    assert b"serves stub, but not other" in said


async def test_a_root_that_is_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    async with command("--root", tmp_path / "missing") as process:
        _, said = await process.communicate()

    assert process.returncode == 2
    assert b"missing is no folder" in said


def test_the_services_variables_change_its_defaults() -> None:
    assert Defaults() == Defaults("127.0.0.1", 8080, None)
    assert toolkit_defaults({}) == Defaults("127.0.0.1", 5000, None)
    given = {"CAPTION_HOST": "::1", "CAPTION_PORT": "5001", "CAPTION_MODEL": "joy"}
    assert toolkit_defaults(given) == Defaults("::1", 5001, "joy")
    assert toolkit_defaults(dict.fromkeys(given, "")) == toolkit_defaults({})


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "5 000", "²", "9" * 5000])
def test_a_port_that_is_none_is_wrong_usage(port: str) -> None:
    with pytest.raises(UsageError, match="CAPTION_PORT"):
        toolkit_defaults({"CAPTION_PORT": port})
