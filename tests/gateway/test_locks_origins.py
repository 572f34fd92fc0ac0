"""Pages of other origins cannot drive the gateway, whatever name they give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from joycap_vllm import Captioner
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Keyring
from joycap_vllm.gateway.origins import is_foreign, known_host

from .locking import CHAT, JSON, asking, body

Ask = Callable[..., Any]
CHATTER = "https://chat.example.org"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.:8080",
        "joycap.localhost:1",
        "127.0.0.1:8080",
        "[::1]:8080",
        "::1",
        "192.168.1.5",
        "host.docker.internal:8080",
        "Captions.Example.org:443",
    ],
)
def test_a_name_that_is_the_gateways_is_known(host: str) -> None:
    assert known_host(host, {"captions.example.org"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "captions.example.org.evil.example",
        "xlocalhost",
        "[::1].evil.example",
        "999.1.1.1",
        "a@localhost",
    ],
)
def test_any_other_name_is_not(host: str) -> None:
    assert not known_host(host, {"captions.example.org"})


@pytest.mark.parametrize(
    ("method", "headers", "foreign"),
    [
        ("POST", {}, False),
        ("POST", {b"origin": b"http://127.0.0.1:8080"}, False),
        ("POST", {b"origin": b"HTTP://127.0.0.1:8080"}, False),
        ("POST", {b"origin": b"https://127.0.0.1:8080"}, False),
        ("POST", {b"origin": b"http://127.0.0.1:3000"}, True),
        ("POST", {b"origin": b"http://127.0.0.1"}, True),
        ("POST", {b"origin": b"null"}, True),
        ("POST", {b"origin": b""}, True),
        ("POST", {b"origin": b"http://127.0.0.1:8080.evil.example"}, True),
        ("GET", {b"origin": b"http://evil.example"}, True),
        ("GET", {b"sec-fetch-site": b"cross-site"}, True),
        ("GET", {b"sec-fetch-site": b"same-site", b"sec-fetch-mode": b"no-cors"}, True),
        ("GET", {b"sec-fetch-site": b"same-origin"}, False),
        ("GET", {b"sec-fetch-site": b"none", b"sec-fetch-mode": b"navigate"}, False),
        # A form of a page under a strict referrer policy.
        ("POST", {b"sec-fetch-site": b"same-origin", b"origin": b"null"}, False),
        ("GET", {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate"}, False),
        ("POST", {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate"}, True),
        (
            "GET",
            {
                b"sec-fetch-site": b"cross-site",
                b"sec-fetch-mode": b"navigate",
                b"sec-fetch-dest": b"iframe",
            },
            True,
        ),
    ],
)
def test_what_a_browser_says_tells_whose_page_asks(
    method: str, headers: dict[bytes, bytes], foreign: bool
) -> None:
    assert is_foreign({b"host": b"127.0.0.1:8080", **headers}, method) is foreign


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/health", "/static/base.css", "/nowhere"])
async def test_a_page_of_another_origin_gets_nothing(
    captioner: Captioner, method: str, path: str
) -> None:
    async with asking(Context(captioner)) as client:
        answer = await client.request(method, path, headers={"Origin": "http://evil.example"})

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin"
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_page_whose_name_was_made_to_point_here_gets_nothing(
    captioner: Captioner,
) -> None:
    rebound = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
    async with asking(Context(captioner)) as client:
        refused = await client.get("/v1/models", headers=rebound)
    async with asking(Context(captioner, allow_hosts=frozenset({"evil.example"}))) as client:
        let_in = await client.get("/v1/models", headers=rebound)

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host")
    assert "--allow-host" in refused.json()["error"]["message"]
    assert let_in.status_code == 200


async def test_with_keys_any_name_will_do_unless_some_are_given(captioner: Captioner) -> None:
    keys = Keyring.of(b"alpha")
    named = {"Host": "gpu.lan", "Authorization": "Bearer alpha"}
    async with asking(Context(captioner, keys=keys)) as client:
        any_name = await client.get("/v1/models", headers=named)
        without_key = await client.get("/v1/models", headers={"Host": "gpu.lan"})
    only = frozenset({"captions.lan"})
    async with asking(Context(captioner, keys=keys, allow_hosts=only)) as client:
        other_name = await client.get("/v1/models", headers=named)

    assert any_name.status_code == 200
    assert without_key.status_code == 401
    assert other_name.status_code == 403


async def test_a_trusted_page_asks_with_a_key_and_reads_the_answer(
    captioner: Captioner, ask: Ask
) -> None:
    context = Context(captioner, keys=Keyring.of(b"alpha"), allow_origins=frozenset({CHATTER}))
    preflight = {
        "Origin": CHATTER,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    async with asking(context) as client:
        allowed = await client.options(CHAT, headers=preflight)
        without = await client.post(CHAT, content=body(ask()), headers={**JSON, "Origin": CHATTER})
        keyed = {**JSON, "Origin": CHATTER, "Authorization": "Bearer alpha"}
        answered = await client.post(CHAT, content=body(ask()), headers=keyed)

    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == CHATTER
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert (without.status_code, answered.status_code) == (401, 200)
    assert "x-joycap-attempts" in answered.headers["access-control-expose-headers"]
    for answer in (allowed, without, answered):
        assert answer.headers["access-control-allow-origin"] == CHATTER
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_trusted_page_needs_no_key_where_nobody_does(
    captioner: Captioner, ask: Ask
) -> None:
    headers = {**JSON, "Origin": CHATTER, "Sec-Fetch-Site": "cross-site"}
    async with asking(Context(captioner, allow_origins=frozenset({CHATTER}))) as client:
        answer = await client.post(CHAT, content=body(ask()), headers=headers)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == CHATTER


async def test_a_page_that_is_not_trusted_gets_no_answer_to_its_preflight(
    captioner: Captioner,
) -> None:
    context = Context(captioner, allow_origins=frozenset({CHATTER}))
    asked = {"Origin": f"{CHATTER}.evil.example", "Access-Control-Request-Method": "POST"}
    async with asking(context) as client:
        answer = await client.options(CHAT, headers=asked)

    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
