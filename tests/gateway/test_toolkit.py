"""AI-Toolkit's captioning service, called as its web interface calls it.

The shapes are those of ostris/ai-toolkit pull request 431 @20862609: every field, default, text and
status that it has, in its order; what the gateway adds stands behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm import Captioner, CaptionerOptions, build_prompt
from joycap_vllm.errors import NoEndpointError
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway import toolkit
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context, Limits
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.toolkit_ask import read_fields, read_prompt
from joycap_vllm.prompts import legacy_prompt, load_table

CAPTION = "A red circle lies in the middle of a plain white ground."
TAGS = "1girl, solo, red_dress, standing, outdoors, tree, smile, long_hair"
LOOP = "red circle, " * 60
READY = {
    "status": "ready",
    "message": "Model ready for captioning",
    "progress": 1.0,
    "current_file": "",
    "files_downloaded": 0,
    "total_files": 0,
}
LEGACY = ["descriptive", "casual", "detailed", "straightforward", "stable_diffusion", "booru"]
CAPTIONED = ["success", "caption", "prompt_used", "generation_time", "image_path"]
BATCHED = ["success", "results", "total_images", "successful_captions", "failed_captions"]
BATCHED += ["total_time", "prompt_used"]
FIELDS = ["prompt", "caption_type", "caption_length", "extra_options", "name_input", "style"]
FIELDS += ["max_new_tokens", "temperature", "top_p", "top_k", "do_sample"]
TYPES = [None, "Descriptive", "Danbooru tag list", "Booru tag list", "none of them"]
SYSTEM = "You are a helpful image captioner."


def draw(path: Path, color: tuple[int, int, int] = (200, 30, 40)) -> str:
    Image.new("RGB", (64, 48), color).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of datasets, a root."""
    root = tmp_path / "datasets"
    root.mkdir()
    return root


@pytest.fixture
def picture(folder: Path) -> str:
    return draw(folder / "a picture.png")


@pytest.fixture
def stopped() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def client(
    captioner: Captioner, serve: Any, folder: Path, stopped: asyncio.Event
) -> AsyncIterator[httpx2.AsyncClient]:
    context = Context(
        captioner,
        limits=Limits(body=200_000),
        roots=(folder,),
        stop=stopped.set,
        ai_toolkit=True,
    )
    async with (
        serve(make_app(context)) as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


async def post(client: httpx2.AsyncClient, path: str, **fields: Any) -> httpx2.Response:
    return await client.post(path, json=fields)


def sent_text(body: dict[str, Any]) -> str:
    text: str = body["messages"][-1]["content"][1]["text"]
    return text


async def test_health_is_what_the_page_takes_for_an_available_service(
    client: httpx2.AsyncClient,
) -> None:
    reply = await client.get("/health")

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
    upstream: Any, serve: Any, folder: Path, picture: str
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

        caption = await post(client, "/caption", image_path=picture)
        health, progress = await client.get("/health"), await client.get("/progress")

    assert caption.status_code == 500
    assert caption.json()["error"] == "Failed to generate caption"
    assert "cannot connect" in caption.json()["reason"]
    assert health.status_code == 200
    assert (health.json()["status"], health.json()["model_loaded"]) == ("healthy", False)
    assert (progress.json()["status"], progress.json()["progress"]) == ("error", 0.0)
    assert "cannot connect" in progress.json()["message"]


async def test_progress_is_the_loading_progress_itself(client: httpx2.AsyncClient) -> None:
    reply = await client.get("/progress")

    assert (reply.status_code, reply.json()) == (200, READY)
    assert list(reply.json()) == list(READY)


async def test_prompts_lists_the_six_styles_and_the_twelve_types(
    client: httpx2.AsyncClient,
) -> None:
    told = (await client.get("/prompts")).json()

    assert list(told) == ["prompts", "styles", "joycaption_types"]
    assert told["styles"] == list(told["prompts"]) == LEGACY
    assert told["prompts"]["detailed"] == "Write a long detailed description for this image."
    assert told["joycaption_types"] == [row.title for row in load_table().types]
    assert len(told["joycaption_types"]) == 12


async def test_one_picture_is_captioned_with_the_services_defaults(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    reply = await post(client, "/caption", image_path=picture)

    told = reply.json()
    assert reply.status_code == 200
    assert list(told) == [*CAPTIONED, "finish_reason", "attempts", "glitches"]
    assert (told["success"], told["caption"], told["image_path"]) == (True, CAPTION, picture)
    assert told["prompt_used"] == "Write a descriptive caption for this image in a formal tone."
    assert isinstance(told["generation_time"], float)
    assert (told["finish_reason"], told["attempts"], told["glitches"]) == ("stop", 1, [])
    [body] = upstream.bodies
    assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    assert sent_text(body) == told["prompt_used"]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (256, 0.6, 0.9)


async def test_the_pages_own_call_is_answered(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    """As ui/src/app/api/datasets/caption/route.ts sends it; what is undefined there is absent."""
    reply = await post(
        client,
        "/caption",
        image_path=picture,
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


async def test_a_prompt_of_ones_own_wins_over_everything(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    own = "What is it? {name} {length} {}"
    fields = {"caption_type": "MidJourney", "style": "booru", "extra_options": ["Never mind."]}
    reply = await post(client, "/caption", image_path=picture, prompt=own, **fields)

    assert reply.json()["prompt_used"] == sent_text(upstream.bodies[0]) == own


async def test_every_type_asks_with_its_row_and_is_long_unless_said_otherwise(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    for row in load_table().types:
        upstream.script += [TAGS if row.style == "tags" else CAPTION] * 2
        upstream.bodies.clear()
        for length in ({"prompt": ""}, {"caption_length": "any"}):
            await post(client, "/caption", image_path=picture, caption_type=row.title, **length)

        long, any_length = map(sent_text, upstream.bodies)
        assert long == row.length.replace("{length}", "long")
        assert any_length == row.any


async def test_lengths_may_be_words_numbers_or_texts_of_any_kind(
    client: httpx2.AsyncClient, picture: str
) -> None:
    async def used(length: Any) -> str:
        fields = {"caption_type": "Descriptive", "caption_length": length}
        return str((await post(client, "/caption", image_path=picture, **fields)).json())

    assert "description for this image in 30 words or less." in await used("30")
    assert "description for this image in 30 words or less." in await used(30)
    assert "description for this image in 30 words or less." in await used(30.0)
    assert "Write a very long detailed description" in await used("very long")
    assert "Write a tiny detailed description" in await used("tiny")
    assert "Write a long detailed description" in await used(None)


async def test_extra_options_are_joined_and_the_name_is_filled_in(
    client: httpx2.AsyncClient, picture: str
) -> None:
    fields = {
        "caption_type": "Descriptive",
        "caption_length": "any",
        "extra_options": ["Call them {name}.", "Mind {braces}."],
    }
    named = await post(client, "/caption", image_path=picture, name_input="Ada", **fields)
    nameless = await post(client, "/caption", image_path=picture, name_input="", **fields)

    first = "Write a detailed description for this image."
    assert named.json()["prompt_used"] == f"{first} Call them Ada. Mind {{braces}}."
    assert nameless.json()["prompt_used"] == f"{first} Call them {{NAME}}. Mind {{braces}}."


async def test_the_six_styles_are_known_and_a_type_that_is_not_falls_back_to_them(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    for style in LEGACY:
        upstream.script.append(TAGS if style == "booru" else CAPTION)
        fields = {"caption_type": "Unheard of", "style": style}
        reply = await post(client, "/caption", image_path=picture, **fields)

        assert reply.json()["prompt_used"] == legacy_prompt(style).text


@pytest.mark.parametrize("field", ["caption_type", "style"])
async def test_booru_tag_list_that_the_page_offers_is_danbooru(
    client: httpx2.AsyncClient, picture: str, upstream: Any, field: str
) -> None:
    upstream.script.append(TAGS)

    fields = {field: "Booru tag list", "caption_length": "any"}
    reply = await post(client, "/caption", image_path=picture, **fields)

    assert reply.json()["prompt_used"] == build_prompt("danbooru-tag-list").text


async def test_an_unknown_style_is_told_after_a_missing_picture(
    client: httpx2.AsyncClient, picture: str, folder: Path, upstream: Any
) -> None:
    unknown = await post(client, "/caption", image_path=picture, style="Haiku")
    missing = await post(client, "/caption", image_path=f"{folder}/no.png", style="Haiku")
    batch = await post(client, "/batch_caption", image_paths=[picture], style="Haiku")

    assert unknown.status_code == batch.status_code == 400
    assert unknown.json() == batch.json() == {"error": "Unknown prompt style: Haiku"}
    assert missing.status_code == 404
    assert upstream.bodies == []


async def test_without_do_sample_the_answer_is_greedy(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    await post(client, "/caption", image_path=picture, do_sample=False, temperature=0.9)

    assert upstream.bodies[0]["temperature"] == 0


def test_top_k_is_taken_and_null_is_as_absent() -> None:
    absent = read_prompt({})
    null = read_prompt(dict.fromkeys(("top_k", "temperature", "style", "do_sample", "prompt")))

    assert replace(null, sampling=absent.sampling) == absent
    assert (null.sampling.top_k, null.sampling.temperature) == (0, 0.6)
    assert read_prompt({"top_k": 40}).sampling.top_k == 40
    assert read_prompt({"top_k": -1}).sampling.top_k == 0


def test_special_tokens_of_a_caller_reach_no_tokenizer() -> None:
    evil = "<image>Hi<|eot_id|>"
    typed = {"caption_type": "Descriptive", "extra_options": [evil], "name_input": evil}

    for fields in ({"prompt": evil}, typed, {**typed, "caption_length": evil}):
        text = read_prompt({**fields, "extra_options": [f"{evil} {{name}}"]}).text
        assert "<image>" not in text
        assert "<|" not in text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.sampled_from(TYPES))
def test_any_fields_are_a_prompt_or_refused(fields: dict[str, Any], kind: str | None) -> None:
    with contextlib.suppress(RefusedError):
        prompt = read_prompt(read_fields(orjson.dumps({**fields, "caption_type": kind})))
        assert prompt.text


async def test_no_more_tokens_are_asked_for_than_the_servers_have_room_for(
    client: httpx2.AsyncClient, picture: str, upstream: Any, captioner: Captioner
) -> None:
    [station] = captioner.fleet.members
    station.endpoint.abilities = replace(station.endpoint.abilities, context=2048)

    reply = await post(client, "/caption", image_path=picture, max_new_tokens=4096)

    assert reply.json()["success"] is True
    assert 1000 < upstream.bodies[0]["max_tokens"] < 2048 - 731


async def test_without_a_seed_asking_again_draws_anew(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    for _ in range(2):
        await post(client, "/caption", image_path=picture)

    first, second = upstream.bodies
    assert first["seed"] != second["seed"]


@pytest.mark.parametrize("fields", [{}, {"image_paths": ["x"]}, [], [1], "image_path"])
async def test_a_caption_needs_a_path(client: httpx2.AsyncClient, fields: Any) -> None:
    reply = await client.post("/caption", json=fields)

    assert reply.status_code == 400
    assert reply.json() == {"error": "image_path is required"}


async def test_a_missing_picture_is_not_found(client: httpx2.AsyncClient, folder: Path) -> None:
    reply = await post(client, "/caption", image_path=f"{folder}/no.png")

    assert reply.status_code == 404
    assert list(reply.json()) == ["error", "reason"]
    assert reply.json()["error"] == f"Image file not found: {folder}/no.png"


async def test_a_glitch_is_asked_again_and_told_beside_the_caption(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    upstream.script += [LOOP, CAPTION]

    told = (await post(client, "/caption", image_path=picture)).json()

    assert (told["caption"], told["attempts"], told["glitches"]) == (CAPTION, 2, ["repetition"])


async def test_a_glitch_that_stays_is_no_caption_but_a_failure_with_its_reason(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    upstream.script += [LOOP] * 9

    reply = await post(client, "/caption", image_path=picture)

    told = reply.json()
    assert reply.status_code == 500
    assert list(told) == ["error", "reason", "attempts", "glitches"]
    assert told["error"] == "Failed to generate caption"
    assert told["reason"].startswith("repetition: ")
    assert told["attempts"] == 3


async def test_a_file_that_is_no_picture_fails_with_its_reason(
    client: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    (folder / "notes.png").write_text("only words")

    reply = await post(client, "/caption", image_path=f"{folder}/notes.png")

    assert reply.status_code == 500
    assert reply.json()["error"] == "Failed to generate caption"
    assert "looks like text" in reply.json()["reason"]
    assert upstream.bodies == []


async def test_a_refusal_of_the_server_fails_with_its_words(
    client: httpx2.AsyncClient, picture: str, upstream: Any
) -> None:
    upstream.script.append(400)

    reply = await post(client, "/caption", image_path=picture)

    assert reply.status_code == 500
    assert reply.json()["error"] == "Failed to generate caption"
    assert "as told" in reply.json()["reason"]


async def test_a_batch_keeps_its_order_whoever_is_done_first(
    client: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    names = [draw(folder / f"{number}.png", (number * 20, 0, 0)) for number in range(6)]
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    paths = [*names[:3], f"{folder}/gone.png", *names[3:], f"{folder}/broken.png", names[0]]

    reply = await post(client, "/batch_caption", image_paths=paths)

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
    client: httpx2.AsyncClient, folder: Path, upstream: Any
) -> None:
    paths = [draw(folder / f"{number}.png", (number * 40, 0, 0)) for number in range(4)]
    upstream.hold = asyncio.Event()
    task = asyncio.create_task(post(client, "/batch_caption", image_paths=paths))

    async with asyncio.timeout(10):
        while len(upstream.bodies) < len(paths):  # none is answered until all have come
            await asyncio.sleep(0.01)
    upstream.hold.set()

    assert (await task).json()["successful_captions"] == 4


async def test_a_batch_of_failures_is_still_a_success(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    reply = await post(client, "/batch_caption", image_paths=[f"{folder}/no.png", 7, None])
    empty = await post(client, "/batch_caption", image_paths=[])

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
    client: httpx2.AsyncClient, fields: dict[str, Any], words: str
) -> None:
    reply = await client.post("/batch_caption", json=fields)

    assert (reply.status_code, reply.json()) == (400, {"error": words})


async def test_a_long_batch_sends_blanks_so_that_its_caller_does_not_give_up(
    client: httpx2.AsyncClient, picture: str, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit, "_BEAT", 0.02)
    upstream.hold = asyncio.Event()

    async with client.stream("POST", "/batch_caption", json={"image_paths": [picture]}) as reply:
        pieces = reply.aiter_bytes()
        assert await anext(pieces) == b" "
        upstream.hold.set()
        rest = b"".join([piece async for piece in pieces])

    assert orjson.loads(b" " + rest)["successful_captions"] == 1


async def test_a_dead_fleet_fails_the_rest_of_a_batch_without_waiting_for_each(
    client: httpx2.AsyncClient,
    captioner: Captioner,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [draw(folder / f"{number}.png") for number in range(5)]
    asked = []

    async def outcome(*_: Any, **named: Any) -> Any:
        asked.append(named["key"])
        raise NoEndpointError("no endpoint has answered for 60 s")

    monkeypatch.setattr(toolkit, "_AT_ONCE", 1)
    monkeypatch.setattr(captioner, "outcome", outcome)
    reply = await post(client, "/batch_caption", image_paths=paths)

    assert len(asked) == 1
    rows = reply.json()["results"]
    assert [row["image_path"] for row in rows] == paths
    assert {row["reason"] for row in rows} == {"no endpoint has answered for 60 s"}
    assert {row["error"] for row in rows} == {"Failed to generate caption"}


@pytest.mark.parametrize("path", ["/caption", "/batch_caption"])
async def test_a_caller_that_leaves_ends_its_request_at_the_server(
    client: httpx2.AsyncClient, picture: str, upstream: Any, path: str
) -> None:
    upstream.hold = asyncio.Event()
    fields = {"image_path": picture, "image_paths": [picture]}
    task = asyncio.create_task(client.post(path, json=fields))
    await upstream.arrived.wait()
    task.cancel()

    async with asyncio.timeout(10):
        await upstream.left.wait()
    await asyncio.gather(task, return_exceptions=True)


async def test_shutdown_is_answered_and_then_done(
    client: httpx2.AsyncClient, stopped: asyncio.Event
) -> None:
    """The page sends no body, but says that it is JSON."""
    reply = await client.post("/shutdown", headers={"Content-Type": "application/json"})

    assert (reply.status_code, reply.json()) == (
        200,
        {"status": "shutting_down", "message": "Server is shutting down..."},
    )
    async with asyncio.timeout(5):
        await stopped.wait()


@pytest.mark.parametrize("path", ["/caption", "/batch_caption", "/shutdown"])
async def test_pages_of_other_origins_cannot_drive_it(
    client: httpx2.AsyncClient, stopped: asyncio.Event, path: str
) -> None:
    """A browser sends these without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind} if kind else {}
        reply = await client.post(path, content=b"{}", headers=headers)

        assert reply.status_code == 415
        assert "application/json" in reply.json()["error"]
    assert not stopped.is_set()


async def test_bad_json_and_bodies_over_the_limit_are_refused_in_its_shape(
    client: httpx2.AsyncClient,
) -> None:
    headers = {"Content-Type": "application/json"}
    broken = await client.post("/caption", content=b"{", headers=headers)
    large = await client.post("/batch_caption", content=b" " * 200_001, headers=headers)

    assert (broken.status_code, large.status_code) == (400, 413)
    assert "no valid JSON" in broken.json()["error"]
    assert "limit" in large.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", 0),
        ("max_new_tokens", "many"),
        ("extra_options", [1]),
        ("caption_length", []),
        ("prompt", {}),
    ],
)
async def test_a_field_that_cannot_be_is_named(
    client: httpx2.AsyncClient, picture: str, field: str, value: Any
) -> None:
    fields = {"caption_type": "Descriptive", field: value}
    reply = await post(client, "/caption", image_path=picture, **fields)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(f"{field}: ")


async def test_the_other_doors_stay_and_its_routes_need_the_flag(
    client: httpx2.AsyncClient, gateway: str
) -> None:
    models = await client.get("/v1/models")
    async with httpx2.AsyncClient(base_url=gateway) as plain:
        missing = await plain.post("/caption", json={})
        health = await plain.get("/health")

    assert models.status_code == 200
    assert missing.status_code == 404
    assert health.json()["status"] != "healthy"
