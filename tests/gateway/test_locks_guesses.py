"""Wrong keys, forged addresses, and what is told to those who have no key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.context import Context, Limits
from joycap_vllm.gateway.keys import Keyring

from .locking import CHAT, JSON, asking, served
from .toolkit_calls import draw

Ask = Callable[..., Any]
RIGHT, WRONG = {"Authorization": "Bearer alpha"}, {"Authorization": "Bearer beta"}


def context(captioner: Captioner, **more: Any) -> Context:
    return Context(captioner, keys=Keyring.of(b"alpha"), **more)


async def test_whoever_guesses_keys_is_told_to_wait_and_whoever_has_one_is_not(
    captioner: Captioner,
) -> None:
    async with served(context(captioner)) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        wrong = [await client.get("/v1/models", headers=WRONG) for _ in range(14)]
        ollama = await client.get("/api/tags", headers=WRONG)
        right = await client.get("/v1/models", headers=RIGHT)
        none = await client.get("/v1/models")
        asked = [await client.get(f"/{door}", headers=WRONG) for door in ("live", "ready")]
        health = await client.get("/health", headers=WRONG)

    assert [answer.status_code for answer in wrong] == [401] * 10 + [429] * 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in wrong[10:])
    assert (ollama.status_code, isinstance(ollama.json()["error"], str)) == (429, True)
    assert (right.status_code, none.status_code) == (200, 401)
    assert [answer.status_code for answer in asked] == [200, 200]
    assert health.status_code == 429  # which would tell right keys from wrong ones else


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_an_address_cannot_be_forged(captioner: Captioner, header: str) -> None:
    limits = Limits(rate=0.001)
    async with (
        served(Context(captioner, limits=limits)) as (url, _),
        httpx2.AsyncClient(base_url=url) as client,
    ):
        forged = [{**JSON, header: f"192.0.2.{at}"} for at in range(4)]
        answers = [await client.post(CHAT, content=b"{}", headers=each) for each in forged]

    assert [answer.status_code for answer in answers] == [400, 429, 429, 429]


async def test_the_cookie_keeps_to_https_where_the_page_came_by_it(captioner: Captioner) -> None:
    form = {"key": "alpha", "next": "/"}
    async with asking(context(captioner)) as client:
        plain = await client.post("/login", data=form, headers={"Origin": "http://127.0.0.1:8080"})
        safe = await client.post("/login", data=form, headers={"Origin": "https://127.0.0.1:8080"})

    assert "secure" not in plain.headers["set-cookie"].lower()
    assert "secure" in safe.headers["set-cookie"].lower()


@pytest.mark.parametrize("toolkit", [False, True], ids=["own", "ai-toolkit"])
async def test_only_those_with_a_key_are_told_where_the_servers_are(
    serve: Any, toolkit: bool
) -> None:
    gone = Starlette(
        routes=[
            Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "stub"}]})),
            Route("/health", lambda _: PlainTextResponse("", 500)),
        ]
    )
    options = CaptionerOptions(check=False, fleet=FleetOptions(concurrency=1, patience=0.1))
    async with serve(gone) as url, Captioner(f"{url}/v1", options=options) as captioner:
        captioner.fleet.members[0].take_down("it is away")
        async with asking(context(captioner, ai_toolkit=toolkit)) as client:
            anybody = await client.get("/health")
            known = await client.get("/health", headers=RIGHT)
        async with asking(Context(captioner, ai_toolkit=toolkit)) as client:
            here = await client.get("/health")

    assert url.rpartition(":")[2] not in anybody.text
    assert "it is away" not in anybody.text
    assert anybody.json()["status"] == ("healthy" if toolkit else "unavailable")
    assert "it is away" in known.text
    assert "it is away" in here.text


async def test_refusals_below_api_have_ollamas_shape(captioner: Captioner) -> None:
    async with asking(Context(captioner)) as client:
        unknown = await client.post("/api/embeddings", json={})
        method = await client.get("/api/chat")
        plain = await client.get("/v1/nothing")

    assert (unknown.status_code, method.status_code, plain.status_code) == (404, 405, 404)
    assert isinstance(unknown.json()["error"], str)
    assert isinstance(method.json()["error"], str)
    assert method.headers["allow"] == "POST"
    assert plain.json()["error"]["message"]


async def test_refusals_of_the_toolkits_routes_keep_their_headers(
    captioner: Captioner, ask: Ask, tmp_path: Path, upstream: Any
) -> None:
    limits = Limits(held=10)
    made = Context(captioner, limits=limits, ai_toolkit=True, roots=(tmp_path,))
    async with asking(made) as client:
        answer = await client.post("/caption", json={"image_path": draw(tmp_path / "a.png")})

    assert answer.status_code == 429
    assert isinstance(answer.json()["error"], str)
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("field", ["num_predict", "top_k"])
async def test_a_number_that_no_server_takes_is_refused_by_ollamas_door(
    captioner: Captioner, picture: str, field: str, upstream: Any
) -> None:
    async with asking(Context(captioner)) as client:
        for number in ("1" + "0" * 30, "-1" + "0" * 30, "9" * 5000):
            images = picture.partition(",")[2].encode()
            body = b'{"model":"llava","prompt":"Hm?","images":["%b"],"options":{"%b":%b}}'
            sent = body % (images, field.encode(), number.encode())
            answer = await client.post("/api/generate", content=sent, headers=JSON)
            assert answer.status_code == 400
            assert isinstance(answer.json()["error"], str)

    assert not upstream.bodies


def broken(body: bytes) -> Starlette:
    """A server whose answers are no chat completions, though it says 200; but for the picture that
    tells whether it is well."""
    good = {"message": {"role": "assistant", "content": "A red circle."}, "finish_reason": "stop"}

    async def chat(request: Any) -> Any:
        if b"poison" in await request.body():
            return PlainTextResponse(body, media_type="application/json")
        return JSONResponse({"choices": [{"index": 0, **good}], "usage": {}})

    return Starlette(
        routes=[
            Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "stub"}]})),
            Route("/health", lambda _: JSONResponse({})),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[]", b"", b"\xff"])
async def test_a_broken_answer_of_a_server_is_not_the_callers_fault(
    serve: Any, ask: Ask, body: bytes
) -> None:
    options = CaptionerOptions(
        retries=0, check=False, fleet=FleetOptions(concurrency=1, patience=20)
    )
    talk = {"model": "joycaption", "messages": [{"role": "user", "content": "poison"}]}
    async with (
        serve(broken(body)) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
        asking(Context(captioner), timeout=60) as client,
    ):
        picture = await client.post(CHAT, json={"model": "joycaption", "messages": ask("poison")})
        plain = await client.post(CHAT, json=talk)
        ollama = await client.post("/api/chat", json={**talk, "stream": False})

    assert [one.status_code for one in (picture, plain, ollama)] == [502, 502, 502]
