"""Real clients before the gateway, real vLLM behind it, and glitches in between."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import ollama
import orjson
import pybase64
import pytest
from openai import AsyncOpenAI
from PIL import Image, ImageDraw
from recipes.asking import CLIENTS, asked_by
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .conftest import Engine, free_port
from prompt_server import serving_app

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

LOOP = "a red circle, a red square, " * 40
ASKED = 8


class Spoiling:
    """Stands before vLLM, passes all on, and makes every second caption a loop."""

    def __init__(self, root: str) -> None:
        self.spoiled = 0
        self._root = root
        self._counts = itertools.count()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its base URL, while it is served."""
        ways = [Route("/{path:path}", self._pass, methods=["GET", "POST"])]
        async with (
            httpx2.AsyncClient(base_url=self._root, timeout=60) as self._client,
            serving_app(Starlette(routes=ways)) as url,
        ):
            yield f"{url}/v1"

    async def _pass(self, request: Request) -> Response:
        kind = {"Content-Type": request.headers.get("content-type", "")}
        path, body = request.url.path, await request.body()
        answer = await self._client.request(request.method, path, content=body, headers=kind)
        content = answer.content
        if path.endswith("/chat/completions") and next(self._counts) % 2 == 0:
            data = orjson.loads(content)
            data["choices"][0]["message"]["content"] = LOOP
            content = orjson.dumps(data)
            self.spoiled += 1
        return Response(content, answer.status_code, media_type=answer.headers["content-type"])


@contextlib.asynccontextmanager
async def gateway(base_url: str) -> AsyncIterator[str]:
    """The gateway's root, served by the real command."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from joycap_vllm.cli import main; main()",
        "gateway", "--port", str(port), "--base-url", base_url, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said = [line.decode() async for line in _until(process.stderr, "listening on")]
    assert "listening on" in said[-1], said
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    await process.communicate()


async def _until(lines: asyncio.StreamReader, words: str) -> AsyncIterator[bytes]:
    async for line in lines:
        yield line
        if words in line.decode():
            return


def circle(path: Path) -> str:
    """A blue circle as a file and as a data URL."""
    picture = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(picture).ellipse((220, 140, 420, 340), fill=(45, 85, 215))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return "data:image/png;base64," + pybase64.b64encode(buffer.getvalue()).decode()


@pytest.mark.filterwarnings("ignore")  # of LangChain and LiteLLM, not of ours
async def test_no_client_sees_a_glitch_that_vllm_gives(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = circle(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "dog.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    content = [{"type": "image_url", "image_url": {"url": url}}]
    messages: Any = [{"role": "user", "content": content}]
    model = "joycaption/straightforward"
    spoiling = Spoiling(engine.url.removesuffix("/v1"))
    async with spoiling.serving() as behind, gateway(behind) as root:
        async with AsyncOpenAI(base_url=f"{root}/v1", api_key="none") as client:
            whole = [
                await client.chat.completions.create(model=model, messages=messages)
                for _ in range(ASKED)
            ]
            stream: Any = await client.chat.completions.create(
                model=model, messages=messages, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        chat = {"role": "user", "content": "Describe it.", "images": [str(tmp_path / "a.png")]}
        async with contextlib.AsyncExitStack() as around:
            theirs = ollama.AsyncClient(host=root)
            around.push_async_callback(theirs._client.aclose)
            told = await theirs.chat(model="llava:13b", messages=[chat])
        others = [
            await asyncio.to_thread(asked_by, row, f"{root}/v1", model)
            for row in CLIENTS
            for _ in range(2)
        ]
    captions = [reply.choices[0].message.content or "" for reply in whole]
    captions += ["".join(pieces), told.message.content or "", *others]
    assert {row.tool for row in CLIENTS} >= {"openai", "LangChain", "LiteLLM"}

    assert spoiling.spoiled >= ASKED // 2
    assert all("blue" in caption and LOOP[:20] not in caption for caption in captions), captions


async def test_the_studio_shows_vllms_words_as_they_come(engine: Engine, tmp_path: Path) -> None:
    fields = {"image": circle(tmp_path / "a.png"), "types": ["descriptive"], "seed": 7}
    async with (
        gateway(engine.url) as root,
        httpx2.AsyncClient(base_url=root, timeout=60) as client,
    ):
        reply = await client.post("/studio/caption", json=fields)
    events = [orjson.loads(line) for line in reply.content.splitlines()]

    outcome = events[-1]
    shown = [event["text"] for event in events if event["event"] == "text"]
    assert (outcome["outcome"], outcome["finish"]) == ("ok", "stop")
    assert "blue" in outcome["caption"]
    assert shown
    assert all(outcome["caption"].startswith(text.strip()) for text in shown)
    assert len(shown[0]) < len(outcome["caption"])
    assert outcome["usage"]["prompt"] > 600
    assert outcome["usage"]["completion"] > 5
