"""Keys for people: logging in with a form, and what the cookie is good for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from joycap_vllm import Captioner
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Key, Keyring
from joycap_vllm.gateway.login import local_path
from joycap_vllm.gateway.sessions import Sessions

from .locking import CHAT, JSON, asking, body, served

Ask = Callable[..., Any]
PAGE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def context(captioner: Captioner) -> Context:
    return Context(captioner, keys=Keyring(Key("me", b"alpha")))


async def test_a_person_logs_in_asks_and_logs_out(context: Context, ask: Ask) -> None:
    async with served(context) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        sent_away = await client.get("/v1/models?after=1&b=ü", headers=PAGE)
        form = await client.get(sent_away.headers["location"], headers=PAGE)
        wrong = await client.post("/login", data={"key": "beta", "next": "/v1/models"})
        right = await client.post("/login", data={"key": " alpha ", "next": "/v1/models"})
        there = await client.get(right.headers["location"])
        name = (await client.get("/login", headers=PAGE)).text
        own = {**JSON, "Origin": url}
        captioned = await client.post(CHAT, content=body(ask()), headers=own)
        cookie = dict(client.cookies)
        out = await client.post("/logout", headers={"Origin": url})
        client.cookies.update(cookie)
        after = await client.get("/v1/models")

    assert sent_away.status_code == 303
    assert sent_away.headers["location"].startswith("/login?next=/v1/models%3Fafter%3D1")
    assert 'value="/v1/models?after=1&amp;b=%C3%BC"' in form.text
    assert (wrong.status_code, right.status_code) == (401, 303)
    assert 'role="alert"' in wrong.text
    assert "set-cookie" not in wrong.headers
    said = right.headers["set-cookie"].lower()
    assert all(word in said for word in ("httponly", "samesite=strict", "path=/", "max-age="))
    assert "alpha" not in said
    assert there.status_code == 200
    assert "<strong>me</strong>" in name
    assert captioned.status_code == 200
    assert (out.status_code, after.status_code) == (303, 401)


async def test_the_cookie_changes_nothing_without_a_page_of_the_gateways_own(
    context: Context, ask: Ask
) -> None:
    async with asking(context) as client:
        await client.post("/login", data={"key": "alpha"})
        looked = await client.get("/v1/models")
        unproven = await client.post(CHAT, content=body(ask()), headers=JSON)
        foreign = {**JSON, "Origin": "http://evil.example"}
        crossed = await client.post(CHAT, content=body(ask()), headers=foreign)
        fetched = {**JSON, "Sec-Fetch-Site": "same-origin"}
        proven = await client.post(CHAT, content=body(ask()), headers=fetched)
        keyed = await client.post(
            CHAT, content=body(ask()), headers={**JSON, "Authorization": "Bearer alpha"}
        )

    found = [one.status_code for one in (looked, unproven, crossed, proven, keyed)]
    assert found == [200, 403, 403, 200, 200]


async def test_a_trusted_page_cannot_use_the_cookie(captioner: Captioner) -> None:
    chatter = "https://chat.example.org"
    keys, origins = Keyring.of(b"alpha"), frozenset({chatter})
    async with asking(Context(captioner, keys=keys, allow_origins=origins)) as client:
        await client.post("/login", data={"key": "alpha"})
        answer = await client.get("/v1/models", headers={"Origin": chatter})

    assert answer.status_code == 401


async def test_a_page_of_another_origin_cannot_log_anybody_in_or_out(context: Context) -> None:
    async with asking(context) as client:
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        login = await client.post("/login", data={"key": "alpha"}, headers=foreign)
        logout = await client.post("/logout", headers=foreign)

    assert (login.status_code, logout.status_code) == (403, 403)


async def test_a_session_ends_with_its_key(context: Context) -> None:
    async with asking(context) as client:
        await client.post("/login", data={"key": "alpha"})
        before = await client.get("/v1/models")
        context.keys.replace(Key("me", b"another"))
        after = await client.get("/v1/models")

    assert (before.status_code, after.status_code) == (200, 401)


async def test_whoever_guesses_is_slowed_down(context: Context) -> None:
    async with asking(context) as client:
        tries = [await client.post("/login", data={"key": f"no {n}"}) for n in range(11)]
        late = await client.post("/login", data={"key": "alpha"})

    assert [one.status_code for one in tries] == [401] * 10 + [429]
    assert late.status_code == 429
    assert 1 <= int(late.headers["retry-after"]) <= 7


async def test_what_is_no_form_is_refused(context: Context) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with asking(context) as client:
        as_json = await client.post("/login", content=b"{}", headers=JSON)
        too_long = await client.post("/login", content=b"key=" + b"x" * 20_000, headers=form)
        broken = await client.post("/login", content=b"key=\xff", headers=form)
        many = await client.post("/login", content=b"a=1&" * 50, headers=form)

    found = [one.status_code for one in (as_json, too_long, broken, many)]
    assert found == [415, 413, 400, 400]


async def test_without_keys_nobody_is_asked_for_one(captioner: Captioner) -> None:
    async with asking(Context(captioner)) as client:
        answer = await client.get("/login?next=/v1/models", headers=PAGE)

    assert (answer.status_code, answer.headers["location"]) == (303, "/v1/models")


async def test_a_program_is_not_sent_to_the_form(context: Context) -> None:
    async with asking(context) as client:
        answer = await client.get("/v1/models", headers={"Accept": "*/*"})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example", "", "x", "/\r\nX: y", "\\\\e"],
)
def test_the_form_leads_nowhere_else(path: str) -> None:
    assert local_path(path) == "/"


@pytest.mark.parametrize("path", ["/", "/review?filter=failed&page=2", "/a//b"])
def test_the_form_leads_to_any_page_of_the_gateway(path: str) -> None:
    assert local_path(path) == path


def test_a_session_lasts_a_week_and_there_are_not_too_many() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    key = Key("me", b"alpha")
    first = sessions.begin(key)
    assert sessions.secret(first) == b"alpha"
    assert sessions.secret(first[:-1]) is None

    now[0] = 7 * 86_400 + 1
    later = sessions.begin(key)
    for _ in range(4096):
        sessions.begin(key)

    assert sessions.secret(first) is None
    assert sessions.secret(later) is None
