"""What the studio's page asks of the gateway: prompts as they are sent, captions as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm import Captioner, CaptionerOptions, build_prompt
from joycap_vllm.errors import UsageError
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.studio.ask import Ask, CaptionAsk, extra_groups, prompts_of, read_ask
from joycap_vllm.prompts import load_table

from .conftest import CAPTION, data_url

LOOP = "red circle, " * 60
TAGS = "1boat, lake, dusk, no_humans, outdoors, reflection"
TABLE = load_table()


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway) as client:
        yield client


async def captioned(client: httpx2.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a caption."""
    reply = await client.post("/studio/caption", json=fields)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in reply.content.splitlines()]


async def test_the_page_offers_the_whole_prompt_table(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")

    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert all(f'<option value="{row.name}">' in page.text for row in TABLE.types)
    assert all(f'name="extras" value="{option.name}"' in page.text for option in TABLE.extras)


def test_every_extra_option_stands_under_one_heading() -> None:
    grouped = [option.name for _, options in extra_groups() for option in options]

    assert sorted(grouped) == sorted(option.name for option in TABLE.extras)
    assert "Other" not in dict(extra_groups())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, build_prompt()),
        ({"types": ["straightforward"], "words": 40}, build_prompt("straightforward", words=40)),
        (
            {"types": ["art-critic"], "length": "very long", "extras": ["lighting", "11"]},
            build_prompt("art-critic", length="very long", extras=["lighting", "11"]),
        ),
        ({"extras": ["name"], "name": " Ada "}, build_prompt(extras=["name"], name="Ada")),
        ({"system": "Be brief."}, build_prompt(system="Be brief.")),
    ],
)
async def test_the_preview_is_the_prompt_that_the_table_gives(
    client: httpx2.AsyncClient, fields: dict[str, Any], expected: Any
) -> None:
    reply = await client.post("/studio/prompt", json=fields)

    [shown] = reply.json()["prompts"]
    assert (shown["name"], shown["system"], shown["text"]) == (
        expected.name,
        expected.system,
        expected.text,
    )


async def test_what_the_preview_shows_is_what_is_sent(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    fields = {
        "types": ["descriptive", "danbooru-tag-list"],
        "length": "short",
        "extras": ["name"],
        "name": "<|eot_id|>Ada",
        "text": "What is <image> this {stem}?",
        "system": "You see <|begin_of_text|>much.",
    }
    upstream.script += [CAPTION, TAGS]
    preview = await client.post("/studio/prompt", json=fields)
    await captioned(client, image=picture, **fields)

    shown = {(prompt["system"], prompt["text"]) for prompt in preview.json()["prompts"]}
    sent = {
        (system["content"], user["content"][1]["text"])
        for system, user in (body["messages"] for body in upstream.bodies)
    }
    assert len(shown) == 3
    assert sent >= shown
    assert not any("<|" in text or "<image>" in text for pair in shown for text in pair)


async def test_a_caption_comes_with_its_verdict_and_what_it_took(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    start, text, attempt, outcome = await captioned(client, image=picture, seed=7)

    assert start["event"] == "start"
    assert (start["image"]["width"], start["image"]["height"]) == (64, 48)
    assert [prompt["name"] for prompt in start["prompts"]] == ["descriptive"]
    assert start["attempts"] == 3
    assert text == {"event": "text", "prompt": 0, "text": CAPTION[: len(CAPTION) // 2]}
    assert (attempt["event"], attempt["glitch"], attempt["seed"]) == ("attempt", None, 7)
    assert (outcome["event"], outcome["outcome"]) == ("outcome", "ok")
    assert outcome["caption"] == CAPTION
    assert outcome["usage"] == {"prompt": 800, "cached": 0, "completion": 20}
    assert len(outcome["attempts"]) == 1
    assert "endpoint" not in orjson.dumps(outcome).decode()


async def test_a_glitch_is_told_while_it_is_asked_again(
    gateway: str, upstream: Any, picture: str
) -> None:
    upstream.script += [LOOP]
    first, second = asyncio.Event(), asyncio.Event()
    upstream.hold = first
    async with (
        httpx2.AsyncClient(base_url=gateway) as client,
        client.stream("POST", "/studio/caption", json={"image": picture}) as reply,
    ):
        lines = reply.aiter_lines()
        events = [orjson.loads(await anext(lines))]
        await upstream.arrived.wait()
        upstream.hold = second  # the second answer waits until the first has been told
        first.set()
        while events[-1]["event"] != "attempt":
            events += [orjson.loads(await anext(lines))]
        second.set()
        events += [orjson.loads(line) async for line in lines]

    events = [event for event in events if event["event"] != "text"]
    assert [event["event"] for event in events] == ["start", "attempt", "attempt", "outcome"]
    assert events[1]["glitch"] == "repetition"
    assert "red circle" in events[1]["why"]
    assert [a["why"] != "" for a in events[3]["attempts"]] == [True, False]
    assert events[3]["outcome"] == "ok"


async def test_an_answer_is_shown_while_it_comes(gateway: str, upstream: Any, picture: str) -> None:
    upstream.half = asyncio.Event()
    async with (
        httpx2.AsyncClient(base_url=gateway) as client,
        client.stream("POST", "/studio/caption", json={"image": picture}) as reply,
    ):
        lines = reply.aiter_lines()
        events = [orjson.loads(await anext(lines)) for _ in range(2)]
        upstream.half.set()
        events += [orjson.loads(line) async for line in lines]

    assert events[1] == {"event": "text", "prompt": 0, "text": CAPTION[: len(CAPTION) // 2]}
    assert events[-1]["caption"] == CAPTION


async def test_an_answer_that_breaks_off_is_asked_again(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    upstream.script += [("A red", "")]  # it ends without a word on why
    events = await captioned(client, image=picture)

    assert events[-1]["caption"] == CAPTION
    assert [attempt["error"] for attempt in events[-1]["attempts"]] == ["the answer broke off", ""]


async def test_a_server_that_does_not_stream_is_asked_all_the_same(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    upstream.streams = False
    events = await captioned(client, image=picture)

    assert [event["event"] for event in events] == ["start", "attempt", "outcome"]
    assert events[-1]["caption"] == CAPTION


async def test_a_glitch_that_stays_ends_glitched(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    upstream.script += [LOOP] * 3
    *_, outcome = await captioned(client, image=picture)

    assert (outcome["outcome"], outcome["glitch"]) == ("glitched", "repetition")
    assert [attempt["glitch"] for attempt in outcome["attempts"]] == ["repetition"] * 3


async def test_several_types_are_asked_at_once_about_one_picture(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    kinds = ["descriptive", "straightforward", "art-critic"]
    events = await captioned(client, image=picture, types=[*kinds, "art-critic"])

    assert [prompt["name"] for prompt in events[0]["prompts"]] == kinds
    ended = [event["prompt"] for event in events if event["event"] == "outcome"]
    assert sorted(ended) == [0, 1, 2]


async def test_without_a_seed_asking_again_draws_anew(
    client: httpx2.AsyncClient, upstream: Any, picture: str
) -> None:
    for _ in range(2):
        await captioned(client, image=picture, temperature=0.3, top_p=0.5, max_tokens=99)

    first, second = upstream.bodies
    assert first["seed"] != second["seed"]
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.3, 0.5, 99)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"image": "data:image/png;base64,!!!"}, 400, "base64"),
        ({"image": "data:text/plain;base64,aGVsbG8gdGhlcmU="}, 400, "not an image"),
        ({"image": ""}, 400, "base64"),
        ({}, 400, "image: Field required"),
        ({"types": ["sonnet"]}, 400, "sonnet"),
        ({"types": [], "text": "  "}, 400, "choose a caption type"),
        ({"length": "short", "words": 9}, 400, "not both"),
        ({"words": 0}, 400, "words"),
        ({"extras": ["28"]}, 400, "1 to 27"),
        ({"temperature": 3}, 400, "temperature"),
        ({"image": "data:image/png;base64," + "A" * 200_000}, 413, "limit"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_any_line(
    client: httpx2.AsyncClient, picture: str, fields: dict[str, Any], status: int, words: str
) -> None:
    whole = fields if fields == {} or "image" in fields else {"image": picture, **fields}
    reply = await client.post("/studio/caption", json=whole)

    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]


async def test_only_json_is_taken_so_that_other_origins_must_ask_first(
    client: httpx2.AsyncClient, picture: str
) -> None:
    body = orjson.dumps({"image": picture})
    for path in ("/studio/caption", "/studio/prompt"):
        for kind in ("text/plain", "multipart/form-data; boundary=x"):
            reply = await client.post(path, content=body, headers={"Content-Type": kind})
            assert reply.status_code == 415


async def test_who_leaves_frees_the_server(gateway: str, upstream: Any, picture: str) -> None:
    upstream.hold = asyncio.Event()
    async with httpx2.AsyncClient(base_url=gateway) as client:
        async with client.stream("POST", "/studio/caption", json={"image": picture}):
            await upstream.arrived.wait()
        await asyncio.wait_for(upstream.left.wait(), 5)

    assert len(upstream.bodies) == 1


async def test_a_server_that_dies_is_told_in_the_stream(
    upstream: Any, serve: Any, picture: str
) -> None:
    options = CaptionerOptions(check=False, workers=1, fleet=FleetOptions(4, patience=0.3))
    async with contextlib.AsyncExitStack() as later:
        up = contextlib.AsyncExitStack()
        url = await up.enter_async_context(serve(upstream.app))
        captioner = await later.enter_async_context(Captioner(f"{url}/v1", options=options))
        front = await later.enter_async_context(serve(make_app(Context(captioner))))
        client = await later.enter_async_context(httpx2.AsyncClient(base_url=front, timeout=30))
        await up.aclose()
        events = await captioned(client, image=picture)

    assert [event["event"] for event in events if event["event"] != "waiting"] == ["start", "error"]
    assert events[-1]["prompt"] == 0
    assert events[-1]["error"]["code"] == "no_endpoint"


async def test_a_slow_server_is_told_of_so_that_no_proxy_hangs_up(
    gateway: str, upstream: Any, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joycap_vllm.gateway.studio.door._BEAT", 0.01)
    upstream.hold = asyncio.Event()
    async with (
        httpx2.AsyncClient(base_url=gateway) as client,
        client.stream("POST", "/studio/caption", json={"image": picture}) as reply,
    ):
        lines = reply.aiter_lines()
        first, second = [orjson.loads(await anext(lines)) for _ in range(2)]
        upstream.hold.set()
        *_, last = [orjson.loads(line) async for line in lines]

    assert first["event"] == "start"
    assert second == {"event": "waiting", "why": ""}
    assert last["caption"] == CAPTION


async def test_a_browser_asks_after_scripts_each_time(client: httpx2.AsyncClient) -> None:
    script = await client.get("/static/studio/main.js")
    again = await client.get(
        "/static/studio/main.js", headers={"If-None-Match": script.headers["etag"]}
    )

    assert "javascript" in script.headers["content-type"]
    assert script.headers["cache-control"] == "no-cache"
    assert again.status_code == 304


async def test_pictures_are_not_mixed_up_when_many_are_asked_at_once(
    client: httpx2.AsyncClient, upstream: Any
) -> None:
    sizes = [(20 + i, 30) for i in range(8)]
    pictures = [data_url(Image.new("RGB", size)) for size in sizes]
    all_events = await asyncio.gather(*(captioned(client, image=p) for p in pictures))

    found = [(e[0]["image"]["width"], e[0]["image"]["height"]) for e in all_events]
    assert found == sizes
    assert all(events[-1]["outcome"] == "ok" for events in all_events)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(RefusedError, match="Invalid JSON"):
        read_ask(Ask, rb'{"text": "\ud800"}')


fields = st.dictionaries(
    st.sampled_from([*Ask.model_fields, "image", "more"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
        | st.sampled_from(["descriptive", "short", "name", "27"]),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(fields | st.binary(max_size=20))
def test_any_body_is_read_or_refused(body: dict[str, Any] | bytes) -> None:
    raw = body if isinstance(body, bytes) else _json(body)
    for kind in (Ask, CaptionAsk):
        with contextlib.suppress(RefusedError, UsageError):
            assert prompts_of(read_ask(kind, raw))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # unlike orjson it writes NaN and huge numbers
