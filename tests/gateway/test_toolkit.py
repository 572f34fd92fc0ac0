"""AI-Toolkit's captioning service, called as its web interface calls it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx2
import pytest

from joycap_vllm import Captioner, CaptionerOptions, build_prompt
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context

from .toolkit_calls import CAPTION, LOOP, post, sent_text

READY = {
    "status": "ready",
    "message": "Model ready for captioning",
    "progress": 1.0,
    "current_file": "",
    "files_downloaded": 0,
    "total_files": 0,
}
CAPTIONED = ["success", "caption", "prompt_used", "generation_time", "image_path"]
SYSTEM = "You are a helpful image captioner."


async def test_health_is_what_the_page_takes_for_an_available_service(
    service: httpx2.AsyncClient,
) -> None:
    reply = await service.get("/health")

    assert reply.status_code == 200
    told = reply.json()
    assert list(told)[:5] == [
        "status",
        "model_loaded",
        "gpu_available",
        "gpu_count",
        "loading_progress",
    ]
    assert (told["status"], told["model_loaded"]) == ("healthy", True)
    assert (told["gpu_available"], told["gpu_count"]) == (True, 1)
    assert told["loading_progress"] == READY


async def test_health_stays_200_and_unloaded_while_no_server_answers(
    upstream: Any, serve: Any, folder: Path, drawn: str
) -> None:
    options = CaptionerOptions(check=False, workers=1, fleet=FleetOptions(4, patience=0.3))
    async with contextlib.AsyncExitStack() as later:
        up = contextlib.AsyncExitStack()
        address = await up.enter_async_context(serve(upstream.app))
        captioner = await later.enter_async_context(Captioner(f"{address}/v1", options=options))
        context = Context(captioner, roots=(folder,), ai_toolkit=True)
        url = await later.enter_async_context(serve(make_app(context)))
        client = await later.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=20))
        await up.aclose()

        caption = await post(client, "/caption", image_path=drawn)
        health, progress = await client.get("/health"), await client.get("/progress")

    assert caption.status_code == 500
    assert caption.json()["error"] == "Failed to generate caption"
    assert "cannot connect" in caption.json()["reason"]
    assert health.status_code == 200
    assert (health.json()["status"], health.json()["model_loaded"]) == ("healthy", False)
    assert (progress.json()["status"], progress.json()["progress"]) == ("error", 0.0)
    assert "cannot connect" in progress.json()["message"]


async def test_progress_is_the_loading_progress_itself(service: httpx2.AsyncClient) -> None:
    reply = await service.get("/progress")

    assert (reply.status_code, reply.json()) == (200, READY)
    assert list(reply.json()) == list(READY)


async def test_one_picture_is_captioned_with_the_services_defaults(
    service: httpx2.AsyncClient, upstream: Any, drawn: str
) -> None:
    reply = await post(service, "/caption", image_path=drawn)

    told = reply.json()
    assert reply.status_code == 200
    assert list(told) == [*CAPTIONED, "finish_reason", "attempts", "glitches"]
    assert (told["success"], told["caption"], told["image_path"]) == (True, CAPTION, drawn)
    assert told["prompt_used"] == "Write a descriptive caption for this image in a formal tone."
    assert isinstance(told["generation_time"], float)
    assert (told["finish_reason"], told["attempts"], told["glitches"]) == ("stop", 1, [])
    [body] = upstream.bodies
    assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    assert sent_text(body) == told["prompt_used"]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (256, 0.6, 0.9)


async def test_the_pages_own_call_is_answered(
    service: httpx2.AsyncClient, upstream: Any, drawn: str
) -> None:
    """As ui/src/app/api/datasets/caption/route.ts sends it; what is undefined there is absent."""
    reply = await post(
        service,
        "/caption",
        image_path=drawn,
        style="descriptive",
        caption_type="Straightforward",
        caption_length="short",
        extra_options=["Include information about lighting."],
        name_input="",
        max_new_tokens=300,
        temperature=0.25,
        top_p=0.5,
        do_sample=True,
    )

    table = build_prompt("straightforward", length="short", extras=["lighting"])
    assert reply.json()["prompt_used"] == table.text
    [body] = upstream.bodies
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (300, 0.25, 0.5)


@pytest.mark.parametrize("fields", [{}, {"image_paths": ["x"]}, [], [1], "image_path"])
async def test_a_caption_needs_a_path(service: httpx2.AsyncClient, fields: Any) -> None:
    reply = await service.post("/caption", json=fields)

    assert reply.status_code == 400
    assert reply.json() == {"error": "image_path is required"}


async def test_a_missing_picture_is_not_found(service: httpx2.AsyncClient, folder: Path) -> None:
    reply = await post(service, "/caption", image_path=f"{folder}/no.png")

    assert reply.status_code == 404
    assert list(reply.json()) == ["error", "reason"]
    assert reply.json()["error"] == f"Image file not found: {folder}/no.png"


async def test_a_glitch_is_asked_again_and_told_beside_the_caption(
    service: httpx2.AsyncClient, drawn: str, upstream: Any
) -> None:
    upstream.script += [LOOP, CAPTION]

    told = (await post(service, "/caption", image_path=drawn)).json()

    assert (told["caption"], told["attempts"], told["glitches"]) == (CAPTION, 2, ["repetition"])


async def test_a_glitch_that_stays_is_no_caption_but_a_failure_with_its_reason(
    service: httpx2.AsyncClient, drawn: str, upstream: Any
) -> None:
    upstream.script += [LOOP] * 9

    reply = await post(service, "/caption", image_path=drawn)

    told = reply.json()
    assert reply.status_code == 500
    assert list(told) == ["error", "reason", "attempts", "glitches"]
    assert told["error"] == "Failed to generate caption"
    assert told["reason"].startswith("repetition: ")
    assert told["attempts"] == 3


async def test_a_file_that_is_no_picture_fails_with_its_reason(
    service: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    (folder / "notes.png").write_text("only words")

    reply = await post(service, "/caption", image_path=f"{folder}/notes.png")

    assert reply.status_code == 500
    assert reply.json()["error"] == "Failed to generate caption"
    assert "looks like text" in reply.json()["reason"]
    assert upstream.bodies == []


async def test_a_refusal_of_the_server_fails_with_its_words(
    service: httpx2.AsyncClient, drawn: str, upstream: Any
) -> None:
    upstream.script.append(400)

    reply = await post(service, "/caption", image_path=drawn)

    assert reply.status_code == 500
    assert reply.json()["error"] == "Failed to generate caption"
    assert "as told" in reply.json()["reason"]


@pytest.mark.parametrize("path", ["/caption", "/batch_caption"])
async def test_a_caller_that_leaves_ends_its_request_at_the_server(
    service: httpx2.AsyncClient, drawn: str, upstream: Any, path: str
) -> None:
    upstream.hold = asyncio.Event()
    fields = {"image_path": drawn, "image_paths": [drawn]}
    task = asyncio.create_task(service.post(path, json=fields))
    await upstream.arrived.wait()
    task.cancel()

    async with asyncio.timeout(10):
        await upstream.left.wait()
    await asyncio.gather(task, return_exceptions=True)


async def test_shutdown_is_answered_and_then_done(
    service: httpx2.AsyncClient, stopped: asyncio.Event
) -> None:
    """The page sends no body, but says that it is JSON."""
    reply = await service.post("/shutdown", headers={"Content-Type": "application/json"})

    assert (reply.status_code, reply.json()) == (
        200,
        {"status": "shutting_down", "message": "Server is shutting down..."},
    )
    async with asyncio.timeout(5):
        await stopped.wait()


@pytest.mark.parametrize("path", ["/caption", "/batch_caption", "/shutdown"])
async def test_pages_of_other_origins_cannot_drive_it(
    service: httpx2.AsyncClient, stopped: asyncio.Event, path: str
) -> None:
    """A browser sends these without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind} if kind else {}
        reply = await service.post(path, content=b"{}", headers=headers)

        assert reply.status_code == 415
        assert "application/json" in reply.json()["error"]
    assert not stopped.is_set()


async def test_bad_json_and_bodies_over_the_limit_are_refused_in_its_shape(
    service: httpx2.AsyncClient,
) -> None:
    headers = {"Content-Type": "application/json"}
    broken = await service.post("/caption", content=b"{", headers=headers)
    large = await service.post("/batch_caption", content=b" " * 200_001, headers=headers)

    assert (broken.status_code, large.status_code) == (400, 413)
    assert "no valid JSON" in broken.json()["error"]
    assert "limit" in large.text


async def test_the_other_doors_stay_and_its_routes_need_the_flag(
    service: httpx2.AsyncClient, gateway: str
) -> None:
    models = await service.get("/v1/models")
    async with httpx2.AsyncClient(base_url=gateway) as plain:
        missing = await plain.post("/caption", json={})
        health = await plain.get("/health")

    assert models.status_code == 200
    assert missing.status_code == 404
    assert health.json()["status"] != "healthy"
