"""The middleware that asks for the key where vLLM does not."""

from __future__ import annotations

import pytest
from planning import flags_of, plan_on
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from joycap_vllm.server import ServeOptions
from joycap_vllm.server.flags import GUARD
from joycap_vllm.server.guard.joycap_guard import Guard
from joycap_vllm.server.known import machine

PATHS = ("/health", "/ping", "/metrics", "/version", "/invocations", "/v1/models", "//health")


async def _there(_: Request) -> PlainTextResponse:
    return PlainTextResponse("there")


async def _talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("VLLM_API_KEY", "the-key")
    routes = [Route(path, _there, methods=["GET", "POST", "OPTIONS"]) for path in PATHS]
    app = Starlette(routes=[*routes, WebSocketRoute("/v1/realtime", _talk)])
    app.add_middleware(Guard)
    return TestClient(app)


def test_health_and_figures_are_open_and_all_else_wants_the_key(client: TestClient) -> None:
    answers = {path: client.post(path).status_code for path in PATHS}

    assert answers == {path: 200 if path in PATHS[:4] else 401 for path in PATHS}


@pytest.mark.parametrize(
    ("header", "status"),
    [("Bearer the-key", 200), ("bearer the-key", 200), ("Bearer the-ke", 401), ("the-key", 401),
     ("Basic the-key", 401), ("Bearer ", 401), ("Bearer th\u00e9", 401)],
)  # fmt: skip
def test_the_key_must_be_right(client: TestClient, header: str, status: int) -> None:
    sent = {b"Authorization": header.encode()}

    assert client.post("/invocations", headers=sent).status_code == status


def test_a_socket_without_the_key_is_closed(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime"):
        pass


def test_without_a_key_to_compare_with_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)

    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        Guard(_talk)


def test_a_server_with_a_key_gets_the_guard_beside_the_users_own_middleware() -> None:
    raw = ("--middleware", "mine.Own")
    guarded = plan_on(machine(), ServeOptions(api_key="k", raw=raw))
    open_ = plan_on(machine(), ServeOptions())

    assert "--middleware" in [flag.name for flag in flags_of(guarded)]
    assert str(GUARD.parent) in guarded.replicas[0].env["PYTHONPATH"]
    assert guarded.replicas[0].argv[-2:] == raw
    assert "--middleware" not in [flag.name for flag in flags_of(open_)]
