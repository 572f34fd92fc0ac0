"""Each danger at the gateway's own server, over a real connection: refused with its status."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pybase64
import pytest
from PIL import Image

from joycap_vllm import Captioner
from joycap_vllm.gateway.context import Context, Limits
from joycap_vllm.gateway.keys import Keyring

from .locking import CHAT, JSON, Line, served
from .toolkit_calls import draw

KEY = {"Authorization": "Bearer alpha"}
FOREIGN = {"Origin": "https://evil.example"}


def bomb() -> str:
    """A small file that says it has 2.5 billion pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(name + data))
        return size + name + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
    return pybase64.b64encode(data + chunk(b"IEND", b"")).decode()


def asked(url: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    return {"model": "joycaption", "messages": [{"role": "user", "content": parts}]}


@pytest.fixture
async def door(captioner: Captioner, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a key, of a gateway that reads pictures below `root`."""
    root, outside = tmp_path / "root", draw(tmp_path / "outside.png")
    root.mkdir()
    draw(root / "a.png")
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    context = Context(
        captioner,
        keys=Keyring.of(b"alpha"),
        limits=Limits(body=100_000, head=0.3, idle=0.3),
        roots=(root,),
        ai_toolkit=True,
    )
    async with (
        served(context) as (url, _),
        httpx2.AsyncClient(base_url=url, headers=KEY, timeout=20) as client,
    ):
        yield client


async def test_what_is_good_comes_through(door: httpx2.AsyncClient, picture: str) -> None:
    answers = [
        await door.post(CHAT, json=asked(picture)),
        await door.post("/caption", json={"image_path": "a.png"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    "path",
    ["../outside.png", "folder/outside.png", "link.png", "/etc/passwd", "a.png/../../outside.png"],
)
async def test_a_path_that_leads_out_is_not_found(
    door: httpx2.AsyncClient, path: str, upstream: Any
) -> None:
    one = await door.post("/caption", json={"image_path": path})
    batch = await door.post("/batch_caption", json={"image_paths": [path]})

    assert one.status_code == 404
    assert batch.json()["results"][0]["error"] == "File not found"
    assert not upstream.bodies


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2f..%2fapp.py"]
)
async def test_no_file_of_the_gateways_own_is_read_by_its_path(
    door: httpx2.AsyncClient, path: str
) -> None:
    async with Line(str(door.base_url).rstrip("/")) as line:
        await line.say(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode())
        await line.say(b"Authorization: Bearer alpha\r\n\r\n")
        answer = await line.rest()

    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_picture_that_unfolds_is_a_bad_request(
    door: httpx2.AsyncClient, upstream: Any
) -> None:
    openai = await door.post(CHAT, json=asked(f"data:image/png;base64,{bomb()}"))
    body = {"model": "llava", "prompt": "Hm?", "images": [bomb()]}
    ollama = await door.post("/api/generate", json=body)
    fields = {"types": ["descriptive"], "image": f"data:image/png;base64,{bomb()}"}
    studio = await door.post("/studio/caption", json=fields)

    assert [answer.status_code for answer in (openai, ollama, studio)] == [400, 400, 400]
    assert "pixels" in openai.text
    assert not upstream.bodies


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/caption", "/studio/prompt"])
@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"messages":[{]}', b"[" * 5000])
async def test_bad_json_is_a_bad_request(door: httpx2.AsyncClient, path: str, body: bytes) -> None:
    assert (await door.post(path, content=body, headers=JSON)).status_code == 400


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/caption", "/studio/caption", "/v1/models"])
async def test_a_wrong_key_and_a_page_of_another_origin_get_nothing(
    door: httpx2.AsyncClient, path: str
) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    wrong = await door.request(method, path, json={}, headers={"Authorization": "Bearer beta"})
    foreign = await door.request(method, path, json={}, headers=FOREIGN)
    page = await door.request(method, path, json={}, headers={"Sec-Fetch-Site": "cross-site"})

    assert [answer.status_code for answer in (wrong, foreign, page)] == [401, 403, 403]
    assert wrong.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", [CHAT, "/api/generate", "/batch_caption", "/studio/caption"])
async def test_a_body_over_the_limit_is_too_large(door: httpx2.AsyncClient, path: str) -> None:
    said = await door.post(path, content=b" " * 100_001, headers=JSON)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 10_000

    unsaid = await door.post(path, content=pieces(), headers=JSON)

    assert [said.status_code, unsaid.status_code] == [413, 413]


async def test_a_head_or_a_body_that_does_not_come_ends_with_408(
    door: httpx2.AsyncClient,
) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alpha\r\n"
    )
    async with Line(str(door.base_url).rstrip("/")) as line:
        await line.say(head)
        slow_head = await line.rest()
    async with Line(str(door.base_url).rstrip("/")) as line:
        await line.say(head + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        slow_body = await line.rest()

    assert slow_head.startswith(b"HTTP/1.1 408 ")
    assert slow_body.startswith(b"HTTP/1.1 408 ")


async def test_a_picture_cut_short_is_a_bad_request(door: httpx2.AsyncClient) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    half = pybase64.b64encode(buffer.getvalue()[: len(buffer.getvalue()) // 2]).decode()

    assert (await door.post(CHAT, json=asked(f"data:image/png;base64,{half}"))).status_code == 400
