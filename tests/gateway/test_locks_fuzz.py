"""Whatever is sent to whichever door, nothing is a fault of the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Mount, Route

from joycap_vllm import Captioner
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Keyring

_PARAMETER = re.compile(r"\{[^}]*\}")
# Names of fields that any of the doors reads, so that what is made up is often near the mark.
_FIELDS = (
    "model messages n stream stream_options seed temperature top_p max_tokens prompt image images "
    "image_path image_url path paths text caption captions type caption_type length extra_options "
    "name key keys next id ids file file_id purpose input_file_id endpoint completion_window "
    "metadata options system style filter page kind action undo format response_format"
).split()
_WORDS = (
    "joycaption joycaption/straightforward descriptive short ../../etc/passwd /etc/passwd batch "
    "file-1 data:image/png;base64,AAAA http://127.0.0.1/ user text image_url all ok glitched a.jpg"
).split()
_KINDS = (
    b"application/json",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
    b"text/plain",
    b"",
    b"\xff;charset=\xff",
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")

_NASTY = (
    "",
    "\0",
    "..",
    "../../..",
    "a" * 300,
    "\n",
    "%00",
    "é\u202e",
    "\ufffd",
    "\\",
    "//x",
    "-1",
)

words = st.sampled_from((*_WORDS, *_NASTY)) | st.text(st.characters(codec="utf-8"), max_size=12)
fields = st.sampled_from(_FIELDS) | words
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(_FIELDS), values, max_size=6)
bodies = objects.map(orjson.dumps) | values.map(orjson.dumps) | st.binary(max_size=60)
queries = st.lists(st.tuples(fields, words), max_size=3).map(
    lambda pairs: "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs).encode()
)
headers = st.dictionaries(
    st.sampled_from(
        [b"accept", b"authorization", b"cookie", b"origin", b"range", b"if-none-match", b"host"]
    ),
    st.sampled_from([b"text/html", b"Bearer x", b"a=b; ;=", b"null", b"bytes=9-1", b"*", b"\xff["]),
    max_size=2,
)


def shapes(routes: Any, under: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """What paths of the application's doors look like, and the methods they know."""
    for route in routes:
        if isinstance(route, Route):
            yield under + route.path, tuple(sorted(route.methods or ()))
        elif isinstance(route, Mount):
            yield f"{under}{route.path}/{{rest:path}}", ("GET",)
            yield from shapes(route.routes, under + route.path)


async def call(app: Any, scope: dict[str, Any], body: bytes) -> int:
    """The status of an answer, which ends; an error that leaves the application is raised."""
    sent, whole = list[dict[str, Any]](), asyncio.Event()
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await whole.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            whole.set()

    # Whoever waits for what never comes, as for news, is told after a while that nobody listens.
    asyncio.get_running_loop().call_later(2, whole.set)
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return int(sent[0]["status"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
@pytest.mark.parametrize("keys", [(), (b"x",)], ids=["open", "keyed"])
async def test_no_door_breaks_whatever_is_sent_to_it(
    captioner: Captioner, keys: tuple[bytes, ...], data: Any
) -> None:
    app = make_app(Context(captioner, keys=Keyring.of(*keys)))
    doors = [*shapes(app.routes), ("/{anything}", _METHODS)]
    shape, methods = data.draw(st.sampled_from(doors))
    path = _PARAMETER.sub(lambda _: data.draw(words), shape)
    sent = {
        b"host": b"127.0.0.1:8080",
        b"authorization": b"Bearer x",
        b"content-type": data.draw(st.sampled_from(_KINDS)),
        **data.draw(headers),
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": data.draw(st.sampled_from(methods) | st.sampled_from(_METHODS)),
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": data.draw(queries),
        "root_path": "",
        "headers": list(sent.items()),
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8080),
    }

    status = await call(app, scope, data.draw(bodies))

    assert 200 <= status < 500 or status == 503
