"""What no request may hold, at every door: texts, names, pictures and values beyond all use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from joycap_vllm import Captioner
from joycap_vllm.gateway.batches import Batches
from joycap_vllm.gateway.bounds import (
    MOST_CHOICES,
    MOST_MESSAGES,
    MOST_NAME,
    MOST_PATHS,
    MOST_TALK,
    MOST_TEXT,
    MOST_VALUES,
)
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import Context, Limits
from joycap_vllm.prompts import Prompt

from .locking import CHAT, JSON, asking, served
from .reviewing import job_of, row, write_journal
from .reviewing import picture as drawn
from .toolkit_calls import draw

Ask = Callable[..., Any]
LONG = "a" * (MOST_TEXT + 1)
SWELLING = "{name}" * 5_000


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def told(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """The status, and the words in the shape of the door's clients."""
    answer = await client.post(path, json=body)
    if answer.status_code == 200:
        return 200, ""
    error = answer.json()["error"]
    return answer.status_code, error if isinstance(error, str) else error["message"]


async def test_a_prompt_beyond_all_use_is_refused_at_every_door(
    captioner: Captioner, upstream: Any, ask: Ask, picture: str, tmp_path: Path
) -> None:
    path, data = draw(tmp_path / "a.png"), picture.partition(",")[2]
    openai = {"model": "joycaption", "messages": ask(LONG)}
    system = {"model": "joycaption", "messages": ask("Hm?", LONG)}
    asks: list[tuple[str, dict[str, Any]]] = [
        (CHAT, openai),
        (CHAT, {**openai, "stream": True}),
        (CHAT, system),
        (CHAT, {**openai, "messages": ask(), "system_prompt": LONG}),
        (CHAT, {**openai, "messages": ask(), "extra_options": [LONG]}),
        (CHAT, {**openai, "messages": ask(), "caption_type": "descriptive", "name": LONG}),
        ("/api/generate", {"model": "llava", "prompt": LONG, "images": [data]}),
        ("/api/generate", {"model": "llava", "prompt": "Hm?", "system": LONG, "images": [data]}),
        ("/api/chat", {"model": "llava", "messages": [{**user(LONG)[0], "images": [data]}]}),
        ("/studio/prompt", {"text": LONG}),
        ("/studio/prompt", {"system": LONG}),
        ("/studio/prompt", {"name": LONG}),
        ("/studio/caption", {"text": LONG, "image": picture}),
        ("/caption", {"image_path": path, "prompt": LONG}),
        ("/caption", {"image_path": path, "extra_options": [LONG]}),
        ("/batch_caption", {"image_paths": [path], "prompt": LONG}),
    ]
    context = Context(captioner, roots=(tmp_path,), ai_toolkit=True)
    async with asking(context) as client:
        answers = [await told(client, *one) for one in asks]

    assert {status for status, _ in answers} == {400}
    assert all("characters, over the limit of" in words for _, words in answers)
    assert not upstream.bodies


async def test_a_name_that_swells_a_prompt_is_refused_before_it_is_filled_in(
    captioner: Captioner, tmp_path: Path
) -> None:
    path = draw(tmp_path / "a.png")
    fields = {"image_path": path, "caption_type": "Descriptive", "extra_options": [SWELLING]}
    context = Context(captioner, roots=(tmp_path,), ai_toolkit=True)
    async with asking(context) as client:
        began = time.perf_counter()
        named = await told(client, "/caption", {**fields, "name_input": "n" * 100_000})
        lengths = {**fields, "extra_options": ["{length}" * 5_000], "caption_length": "x" * 100_000}
        long = await told(client, "/caption", lengths)
        most = await told(client, "/caption", {**fields, "name_input": "n" * MOST_NAME})
        took = time.perf_counter() - began

    assert [named[0], long[0], most[0]] == [400, 400, 400]
    assert took < 2


async def test_a_prompt_of_great_length_is_still_asked(
    captioner: Captioner, upstream: Any, ask: Ask
) -> None:
    async with asking(Context(captioner)) as client:
        messages = ask("a" * MOST_TEXT, "b" * MOST_TEXT)
        status, _ = await told(client, CHAT, {"model": "joycaption", "messages": messages})

    assert status == 200
    assert upstream.bodies[0]["messages"][0]["content"] == "b" * MOST_TEXT


async def test_what_a_job_asked_at_great_length_is_not_asked_again(
    review: Any, pictures: Path, upstream: Any
) -> None:
    drawn(pictures / "a.png")
    prompt = Prompt("custom", "{caption}", "Be kind.", "mixed", template=True)
    settings = job_of(pictures, ["a.png"], prompts=(prompt,))
    write_journal(pictures, [row("a.png", settings, asked=LONG)])
    async with review(pictures) as reader:
        item = (await reader.view())["items"][0]
        answer = await reader.post("again", id=item["id"])

    assert answer.status_code == 400
    assert "characters, over the limit" in answer.json()["error"]["message"]
    assert not upstream.bodies


async def test_a_conversation_has_its_bounds(captioner: Captioner, upstream: Any) -> None:
    plain = {"model": "joycaption"}
    async with asking(Context(captioner)) as client:
        many = await told(client, CHAT, {**plain, "messages": user("Hi!") * (MOST_MESSAGES + 1)})
        long = await told(client, CHAT, {**plain, "messages": user("a" * 1000) * 1_050})
        olla = await told(client, "/api/chat", {**plain, "messages": user("a" * (MOST_TALK + 1))})
        much = await told(client, CHAT, {**plain, "messages": user("Hi!"), "n": MOST_CHOICES + 1})
        huge = await told(client, CHAT, {**plain, "messages": user("Hi!"), "n": 10**30})
        none = await told(client, CHAT, {**plain, "messages": user("Hi!"), "n": 0})

    assert [one[0] for one in (many, long, olla, much, huge, none)] == [400] * 6
    assert not upstream.bodies


async def test_a_batch_of_pictures_has_its_bounds(captioner: Captioner, tmp_path: Path) -> None:
    context = Context(captioner, roots=(tmp_path,), ai_toolkit=True)
    async with asking(context) as client:
        most = await told(client, "/batch_caption", {"image_paths": ["x"] * MOST_PATHS})
        more = await told(client, "/batch_caption", {"image_paths": ["x"] * (MOST_PATHS + 1)})
        nested: Any = "x"
        for _ in range(300):
            nested = [nested]
        deep = await told(client, "/batch_caption", {"image_paths": [nested]})

    assert most == (200, "")
    assert (more[0], "over the limit of 10,000" in more[1]) == (400, True)
    assert deep == (400, "image_paths must be a list of texts")


@pytest.mark.parametrize(
    "path", [CHAT, "/api/chat", "/api/generate", "/caption", "/studio/prompt", "/v1/batches"]
)
async def test_a_body_of_very_many_values_is_refused_unread(
    captioner: Captioner, path: str, tmp_path: Path
) -> None:
    batches = Batches(tmp_path / "kept", Completions(captioner))
    context = Context(captioner, ai_toolkit=True, batches=batches)
    sprawling = b'{"messages":[' + b"0," * MOST_VALUES + b"0]}"
    async with asking(context) as client:
        answer = await client.post(path, content=sprawling, headers=JSON)

    assert answer.status_code == 413
    assert "250,000 values" in answer.text


def _hostile(kind: str, size: int) -> bytes:
    """Bodies of JSON that take long to read, or to say what is wrong with them."""
    if kind == "one text":
        return orjson.dumps({"model": "joycaption", "messages": user("a" * (size - 100))})
    if kind == "escapes":
        return b'{"messages":[{"role":"user","content":"' + b"\\u0041" * (size // 6) + b'"}]}'
    if kind == "blanks in base64":
        images = b"A " * (size // 2)
        return b'{"model":"llava","prompt":"x","images":["' + images + b'"]}'
    part = {
        "numbers": b"0,",
        "objects": b"{},",
        "messages": b'{"role":"user","content":"a"},',
        "parts": b'{"role":"user","content":[{},{},{},{},{},{},{},{},{}]},',
        "depth": b"[",
        "keys": b'"a":0,',
    }[kind]
    few = part * min(size // len(part), MOST_VALUES // (1 + part.count(b"{")) - 10)
    many = part * (size // len(part))
    return b'{"messages":[' + (few if size < 16 << 20 else many) + b"0]}"


KINDS = "numbers objects messages parts depth keys escapes".split()


@pytest.mark.parametrize("size", [4 << 20, 31 << 20], ids=["some", "all"])
@pytest.mark.parametrize("kind", [*KINDS, "one text", "blanks in base64"])
async def test_no_body_holds_up_the_others_for_long(
    captioner: Captioner, kind: str, size: int
) -> None:
    body, longest = _hostile(kind, size), 0.0
    path = "/api/generate" if kind == "blanks in base64" else CHAT

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    async with asking(Context(captioner, limits=Limits(body=32 << 20))) as client:
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.05)
        answer = await client.post(path, content=body, headers=JSON)
        watching.cancel()

    print(f"{kind} {len(body) >> 20} MiB: {longest * 1000:.0f} ms")
    assert answer.status_code in (200, 400, 413)
    assert longest < 0.7


async def test_a_refusal_never_repeats_a_long_text(captioner: Captioner) -> None:
    async with served(Context(captioner)) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        body = {"model": "x" * 1_000_000, "messages": user("Hi!")}
        answer = await client.post(CHAT, json=body)

    assert answer.status_code == 404
    assert len(answer.content) < 5_000
