"""What every answer carries, what the gateway tells of itself, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from joycap_vllm import Captioner
from joycap_vllm.errors import UsageError
from joycap_vllm.gateway import GatewayOptions, serve_gateway
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Keyring

from .commands import command
from .locking import CHAT, JSON, asking, body, served
from .test_serve import free_port, line_with

Ask = Callable[..., Any]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/live", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/live", 405),
        ("POST", CHAT, 415),
        ("GET", "/static/base.css", 200),
    ],
)
async def test_every_answer_tells_browsers_to_do_no_more_than_is_meant(
    captioner: Captioner, method: str, path: str, status: int
) -> None:
    async with served(Context(captioner)) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        answer = await client.request(method, path)

    headers = answer.headers
    assert answer.status_code == status
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] in ("no-referrer", "same-origin")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert len(headers.get_list("content-security-policy")) == 1
    # What anybody may have is kept by browsers, and nothing else.
    assert (headers.get("cache-control") == "no-store") is not path.startswith("/static")


async def test_a_page_may_send_its_own_forms(captioner: Captioner) -> None:
    async with asking(Context(captioner, keys=Keyring.of(b"alpha"))) as client:
        form = await client.get("/login")

    assert form.headers["referrer-policy"] == "same-origin"
    assert "script-src 'self'" in form.headers["content-security-policy"]
    assert "<script" not in form.text


async def test_a_method_that_a_door_lacks_is_told_with_those_that_it_has(
    captioner: Captioner,
) -> None:
    async with asking(Context(captioner)) as client:
        answer = await client.put("/v1/models")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_fault_is_told_without_what_it_was_and_dressed_like_any_answer(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(captioner, "outcome", broken)
    context = Context(captioner)
    async with served(context) as (url, _), httpx2.AsyncClient(base_url=url) as client:
        answer = await client.post(CHAT, content=body(ask()), headers=JSON)
        figures = (await client.get("/metrics")).text

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'status="500"' in figures
    assert context.gate.inside == 0


async def test_the_figures_count_requests_captions_and_glitches(
    captioner: Captioner, upstream: Any, ask: Ask
) -> None:
    upstream.script += ["red circle, " * 60]
    async with asking(Context(captioner)) as client:
        await client.post(CHAT, content=body(ask()), headers=JSON)
        await client.post(CHAT, content=b"{", headers=JSON)
        await client.get("/a/path/of/a/robot")
        await client.get("/static/base.css")
        answer = await client.get("/metrics")

    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    name = "joycap_gateway_"
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert found[f"{name}requests_total", CHAT, "200"] == 1
    assert found[f"{name}requests_total", CHAT, "400"] == 1
    assert found[f"{name}requests_total", "other", "404"] == 1
    assert found[f"{name}requests_total", "/static", "200"] == 1
    assert found[f"{name}captions_total", "ok"] == 1
    assert found[f"{name}attempts_total",] == 2
    assert found[f"{name}glitches_total", "repetition"] == 1
    assert found[f"{name}tokens_total", "completion"] == 40
    assert found[f"{name}request_duration_seconds_count", CHAT] == 2
    assert found[f"{name}requests_in_flight",] == 0
    assert found[f"{name}queue_limit",] == 1024
    assert [value for key, value in found.items() if "endpoint_up" in key[0]] == [1]


async def test_the_figures_need_a_key_where_there_are_keys_and_health_does_not(
    captioner: Captioner,
) -> None:
    async with asking(Context(captioner, keys=Keyring.of(b"alpha"))) as client:
        paths = ("/metrics", "/live", "/ready", "/health")
        found = [(await client.get(path)).status_code for path in paths]
        shown = await client.get("/metrics", headers={"Authorization": "Bearer alpha"})

    assert found == [401, 200, 200, 200]
    assert shown.status_code == 200


async def test_a_gateway_that_drains_ends_what_it_has_and_takes_nothing_new(
    captioner: Captioner, upstream: Any, ask: Ask
) -> None:
    upstream.hold = asyncio.Event()
    context = Context(captioner)
    async with (
        served(context) as (url, server),
        httpx2.AsyncClient(base_url=url) as client,
    ):
        before = await client.get("/ready")
        first = asyncio.create_task(client.post(CHAT, content=body(ask()), headers=JSON))
        await upstream.arrived.wait()
        server.drain()
        during = await client.get("/ready")
        alive = await client.get("/live")
        second = await client.post(CHAT, content=body(ask()), headers=JSON)
        upstream.hold.set()
        ended = await first
        async with asyncio.timeout(5):
            while not server.should_exit:
                await asyncio.sleep(0.01)

    assert (before.status_code, before.json()["status"]) == (200, "ready")
    assert (during.status_code, during.json()["status"]) == (503, "draining")
    assert alive.status_code == 200
    assert second.status_code == 503
    assert int(second.headers["retry-after"]) >= 1
    assert second.json()["error"]["code"] == "draining"
    assert ended.status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once_and_without_a_word(
    upstream: Any, serve: Any, ask: Ask, number: signal.Signals
) -> None:
    port = free_port()
    async with (
        serve(upstream.app) as up,
        command("--port", str(port), "--base-url", up, "--no-check") as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        await line_with(process, "listening on")
        upstream.hold = asyncio.Event()
        asked = asyncio.create_task(client.post(CHAT, content=body(ask()), headers=JSON))
        await upstream.arrived.wait()
        process.send_signal(number)
        async with asyncio.timeout(5):
            while (await client.get("/ready")).status_code != 503:
                await asyncio.sleep(0.01)
        process.send_signal(number)
        async with asyncio.timeout(5):
            ended = await process.wait()
        assert process.stderr is not None
        said = await process.stderr.read()
        cut_off = await asked
        upstream.hold.set()

    assert cut_off.status_code == 503
    assert int(cut_off.headers["retry-after"]) >= 1
    assert cut_off.json()["error"]["code"] == "draining"
    assert ended == (130 if number == signal.SIGINT else -number)
    assert said == b""


async def test_ctrl_c_leaves_no_session_unclosed(upstream: Any, serve: Any, ask: Ask) -> None:
    port = free_port()
    async with (
        serve(upstream.app) as up,
        command("--port", str(port), "--base-url", up) as process,
    ):
        await line_with(process, "listening on")
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post(CHAT, content=body(ask()), headers=JSON)
        process.send_signal(signal.SIGINT)
        ended = await process.wait()
        assert process.stderr is not None
        said = await process.stderr.read()

    assert (answer.status_code, ended) == (200, 130)
    assert said == b""


async def test_the_command_takes_new_keys_while_it_serves(
    upstream: Any, serve: Any, tmp_path: Path
) -> None:
    port, file = free_port(), tmp_path / "keys"
    file.write_text("me 0123456789abcdef\n")
    file.chmod(0o600)
    async with (
        serve(upstream.app) as up,
        command("--port", str(port), "--base-url", up, "--keys-file", str(file)) as process,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        await line_with(process, "listening on")
        new = {"Authorization": "Bearer fedcba9876543210"}
        before = await client.get("/v1/models", headers=new)
        file.write_text("me fedcba9876543210\n")
        said = await line_with(process, "has changed")
        after = await client.get("/v1/models", headers=new)

    assert (before.status_code, after.status_code) == (401, 200)
    assert not re.search("fedcba|0123", said)


@pytest.mark.parametrize("origin", ["*", "chat.example.org", "https://chat.example.org/a", "null"])
def test_what_is_no_origin_is_wrong_usage(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        serve_gateway(GatewayOptions(allow_origins=(origin,)), talk=print)
