"""The client's peers in `scripts/bench client`: each does the same work in the plainest way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

from PIL import Image

PROMPT = "Write a long detailed description for this image."
READY = {"jpeg": 60_000, "bmp": 442_422}  # bytes of a prepared picture


def bytes_of(file: Path) -> bytes:
    """What a file holds, read at once where it is needed, as all peers do."""
    return file.read_bytes()


def require(text: str | None) -> None:
    """Sees to it that an answer is one."""
    if not text:
        raise SystemExit("the stub gave no answer")


async def for_each(
    files: Iterable[Path], at_once: int, send: Callable[[Path], Awaitable[None]]
) -> None:
    """Calls `send` for each file, so many at once."""
    left = iter(files)

    async def one() -> None:
        for file in left:
            await send(file)

    await asyncio.gather(*(one() for _ in range(at_once)))


async def by_sdk(url: str, files: list[Path], at_once: int) -> None:
    """As tutorials do it: the openai client, and the base64 of the file in a data URL."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key="none", timeout=600, max_retries=0)

    async def send(file: Path) -> None:
        picture = base64.b64encode(bytes_of(file)).decode()
        image = {"url": f"data:image/jpeg;base64,{picture}"}
        answer = await client.chat.completions.create(
            model="stub",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": image},  # type: ignore[list-item]
                        {"type": "text", "text": PROMPT},
                    ],
                }
            ],
            max_tokens=512,
        )
        require(answer.choices[0].message.content)

    await for_each(files, at_once, send)


async def by_post(url: str, count: int, at_once: int) -> None:
    """The least that the openai client itself costs: the same body, ready, through its aiohttp."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAioHttpClient

    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    http = DefaultAioHttpClient(limits=limits, timeout=600)
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http)
    picture = base64.b64encode(os.urandom(READY["jpeg"])).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
    content = [image, {"type": "text", "text": PROMPT}]
    asked = {"model": "stub", "messages": [{"role": "user", "content": content}], "max_tokens": 512}
    body = json.dumps(asked).encode()
    headers = {"Content-Type": "application/json"}

    async def send(_: Path) -> None:
        answer = await client.post(
            "/chat/completions", cast_to=httpx2.Response, content=body, options={"headers": headers}
        )
        require(json.loads(answer.content)["choices"][0]["message"]["content"])

    await for_each([Path()] * count, at_once, send)


async def by_path(url: str, count: int, at_once: int) -> None:
    """What joycap's own way of sending costs without the job around it: body, request, answer."""
    from joycap_vllm.fleet import Endpoint, request_body

    endpoint, picture = Endpoint(url, connections=at_once), os.urandom(READY["jpeg"])
    sampling = {"temperature": 0.6, "max_tokens": 512, "seed": 1}

    async def send(_: Path) -> None:
        body = request_body(
            model="stub", system="", text=PROMPT, picture=picture, mime="image/jpeg",
            sampling=sampling,
        )  # fmt: skip
        require((await endpoint.send(body, 600.0)).text)

    await for_each([Path()] * count, at_once, send)
    await endpoint.close()


async def by_wire(url: str, files: list[Path], at_once: int) -> None:
    """The least that sending originals costs: bare aiohttp, base64 between constant bytes."""
    import aiohttp
    import pybase64

    mark = "@image@"
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{mark}"}},
        {"type": "text", "text": PROMPT},
    ]
    asked = {"model": "stub", "messages": [{"role": "user", "content": content}], "max_tokens": 512}
    head, tail = json.dumps(asked).encode().split(mark.encode())
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def send(file: Path) -> None:
            body = b"".join((head, pybase64.b64encode(bytes_of(file)), tail))
            async with session.post(f"{url}/chat/completions", data=body, headers=headers) as got:
                require(json.loads(await got.read())["choices"][0]["message"]["content"])

        await for_each(files, at_once, send)


def shrink(file: Path, wire: str) -> int:
    """Pillow alone: at most the recipe's own work."""
    with Image.open(file) as picture:
        picture.draft("RGB", (768, 768))
        small = picture.convert("RGB").resize((384, 384), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if wire == "jpeg" else {}
    small.save(buffer, wire.upper(), **options)
    return len(buffer.getvalue())


def by_pillow(pool: Executor, files: list[Path], wire: str) -> None:
    """All files through `shrink` on all cores."""
    with pool:
        list(pool.map(shrink, files, [wire] * len(files), chunksize=8))
