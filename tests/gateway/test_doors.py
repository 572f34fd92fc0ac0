"""Who gets in, and with what: keys, sizes, content types, health."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.errors import UsageError
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Keyring, read_keys
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.request import read_request

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
Ask = Callable[..., Any]


def body(messages: Any) -> bytes:
    return orjson.dumps({"model": "joycaption", "messages": messages})


async def test_only_those_with_a_key_may_ask(captioner: Captioner, serve: Any, ask: Ask) -> None:
    app = make_app(Context(captioner, keys=Keyring.of(b"alpha", "schlüssel".encode())))
    async with serve(app) as url, httpx2.AsyncClient(base_url=url) as client:
        for key in (None, "Bearer beta", "Bearer", "Basic alpha", "Bearer alphaalpha"):
            headers = {**JSON, **({"Authorization": key} if key else {})}
            refused = await client.post(CHAT, content=body(ask()), headers=headers)

            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "key" in refused.json()["error"]["message"]

        for good in (b"alpha", "schlüssel".encode()):
            sent = [(b"Content-Type", b"application/json"), (b"Authorization", b"Bearer " + good)]
            answered = await client.post(CHAT, content=body(ask()), headers=sent)
            assert answered.status_code == 200
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/health")).status_code == 200


async def test_what_is_no_json_of_the_api_is_refused(gateway: str, ask: Ask) -> None:
    async with httpx2.AsyncClient(base_url=gateway) as client:
        broken = await client.post(CHAT, content=b"{", headers=JSON)
        as_text = await client.post(
            CHAT, content=body(ask()), headers={"Content-Type": "text/plain"}
        )
        too_long = await client.post(CHAT, content=b" " * 200_001, headers=JSON)
        elsewhere = await client.get("/v1/assistants")
        wrong_way = await client.get(CHAT)

    replies = (broken, as_text, too_long, elsewhere, wrong_way)
    assert [reply.status_code for reply in replies] == [400, 415, 413, 404, 405]
    assert all(reply.json()["error"]["message"] for reply in replies)


async def test_a_dead_fleet_is_told_with_a_time_to_come_back(
    upstream: Any, serve: Any, ask: Ask
) -> None:
    options = CaptionerOptions(check=False, workers=1, fleet=FleetOptions(4, patience=0.3))
    async with contextlib.AsyncExitStack() as later:
        up = contextlib.AsyncExitStack()
        upstream_url = await up.enter_async_context(serve(upstream.app))
        captioner = await later.enter_async_context(
            Captioner(f"{upstream_url}/v1", options=options)
        )
        url = await later.enter_async_context(serve(make_app(Context(captioner))))
        client = await later.enter_async_context(httpx2.AsyncClient(base_url=url))
        before = await client.get("/health")
        await up.aclose()
        reply = await client.post(CHAT, content=body(ask()), headers=JSON, timeout=30)
        after = await client.get("/health")

    assert (before.status_code, before.json()) == (200, {"status": "ok"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "10"
    assert after.status_code == 503
    assert "cannot connect" in after.json()["why"]


def text(max_size: int) -> st.SearchStrategy[str]:
    """Any text that UTF-8 can hold."""
    return st.text(st.characters(codec="utf-8"), max_size=max_size)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text(max_size=8), inner),
    max_leaves=8,
)
fields = st.sampled_from(["model", "messages", "n", "stream", "seed", "top_p", "stream_options"])
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant"]) | text(max_size=4)},
        optional={
            "content": json_values
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "image_url", "audio"])},
                    optional={"text": text(max_size=9), "image_url": json_values},
                ),
                max_size=3,
            )
        },
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(fields, json_values), st.none() | messages)
def test_any_json_is_read_or_refused(rest: dict[str, Any], some: Any) -> None:
    data = rest if some is None else {**rest, "messages": some}
    with contextlib.suppress(RefusedError, UsageError):
        read_request(orjson.dumps(data))


@pytest.mark.parametrize("content", [None, b"", b"# nothing else\n"])
def test_a_keys_file_without_keys_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(UsageError, match="keys file"):
        read_keys(file)
