"""AI-Toolkit's batches: all at once, in order, and alive however long they take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from joycap_vllm import Captioner
from joycap_vllm.errors import NoEndpointError
from joycap_vllm.gateway.toolkit import door
from joycap_vllm.prompts import legacy_prompt

from .toolkit_calls import CAPTION, draw, post

BATCHED = ["success", "results", "total_images", "successful_captions", "failed_captions"]
BATCHED += ["total_time", "prompt_used"]


async def test_a_batch_keeps_its_order_whoever_is_done_first(
    service: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    names = [draw(folder / f"{number}.png", (number * 20, 0, 0)) for number in range(6)]
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    paths = [*names[:3], f"{folder}/gone.png", *names[3:], f"{folder}/broken.png", names[0]]

    reply = await post(service, "/batch_caption", image_paths=paths)

    told = reply.json()
    assert (reply.status_code, list(told)) == (200, BATCHED)
    assert [row["image_path"] for row in told["results"]] == paths
    assert told["success"] is True
    assert (told["total_images"], told["successful_captions"]) == (9, 7)
    assert told["failed_captions"] == 2
    assert isinstance(told["total_time"], float)
    assert told["prompt_used"] == legacy_prompt("descriptive").text
    good, gone, broken = (told["results"][at] for at in (0, 3, 7))
    assert list(good)[:4] == ["image_path", "success", "caption", "generation_time"]
    assert (good["caption"], good["attempts"]) == (CAPTION, 1)
    assert list(gone)[:3] == ["image_path", "success", "error"]
    assert (gone["success"], gone["error"]) == (False, "File not found")
    assert (broken["success"], broken["error"]) == (False, "Failed to generate caption")


async def test_the_pictures_of_a_batch_are_asked_about_together(
    service: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    paths = [draw(folder / f"{number}.png", (number * 40, 0, 0)) for number in range(4)]
    upstream.hold = asyncio.Event()
    task = asyncio.create_task(post(service, "/batch_caption", image_paths=paths))

    async with asyncio.timeout(10):
        while len(upstream.bodies) < len(paths):  # none is answered until all have come
            await asyncio.sleep(0.01)
    upstream.hold.set()

    assert (await task).json()["successful_captions"] == 4


async def test_a_batch_of_failures_is_still_a_success(
    service: httpx2.AsyncClient, folder: Path
) -> None:
    reply = await post(service, "/batch_caption", image_paths=[f"{folder}/no.png", 7, None])
    empty = await post(service, "/batch_caption", image_paths=[])

    told = reply.json()
    assert (reply.status_code, told["success"], told["failed_captions"]) == (200, True, 3)
    assert [row["image_path"] for row in told["results"]] == [f"{folder}/no.png", 7, None]
    assert [row["error"] for row in told["results"]] == ["File not found"] * 3
    assert (empty.json()["total_images"], empty.json()["results"]) == (0, [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "image_paths is required"),
        ({"image_path": "x"}, "image_paths is required"),
        ({"image_paths": "x"}, "image_paths must be a list"),
        ({"image_paths": {"x": 1}}, "image_paths must be a list"),
        ({"image_paths": None}, "image_paths must be a list"),
    ],
)
async def test_a_batch_needs_a_list_of_paths(
    service: httpx2.AsyncClient, fields: dict[str, Any], words: str
) -> None:
    reply = await service.post("/batch_caption", json=fields)

    assert (reply.status_code, reply.json()) == (400, {"error": words})


async def test_a_long_batch_sends_blanks_so_that_its_caller_does_not_give_up(
    service: httpx2.AsyncClient, drawn: str, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_BEAT", 0.02)
    upstream.hold = asyncio.Event()

    async with service.stream("POST", "/batch_caption", json={"image_paths": [drawn]}) as reply:
        pieces = reply.aiter_bytes()
        assert await anext(pieces) == b" "
        upstream.hold.set()
        rest = b"".join([piece async for piece in pieces])

    assert orjson.loads(b" " + rest)["successful_captions"] == 1


async def test_a_dead_fleet_fails_the_rest_of_a_batch_without_waiting_for_each(
    service: httpx2.AsyncClient,
    captioner: Captioner,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [draw(folder / f"{number}.png") for number in range(5)]
    asked = []

    async def outcome(*_: Any, **named: Any) -> Any:
        asked.append(named["key"])
        raise NoEndpointError("no endpoint has answered for 60 s")

    monkeypatch.setattr(door, "_AT_ONCE", 1)
    monkeypatch.setattr(captioner, "outcome", outcome)
    reply = await post(service, "/batch_caption", image_paths=paths)

    assert len(asked) == 1
    rows = reply.json()["results"]
    assert [row["image_path"] for row in rows] == paths
    assert {row["reason"] for row in rows} == {"no endpoint has answered for 60 s"}
    assert {row["error"] for row in rows} == {"Failed to generate caption"}
