"""One request: its bytes, its answer, and its errors sorted by what can be done about them."""

from __future__ import annotations

import base64
import json
import time

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import (
    FullError,
    NoEndpointError,
    RejectedError,
    RequestError,
    TransportError,
    UnreachableError,
    UsageError,
)
from joycap_vllm.fleet import Body, Endpoint, request_body
from joycap_vllm.fleet.endpoint import normal_url
from joycap_vllm.fleet.proof import test_picture as the_picture

from fault_server import Asked, FaultServer, Reaction, fail, say, serving


def the_url() -> str:
    return f"data:image/png;base64,{base64.b64encode(the_picture()).decode()}"


def body(text: str = "Describe.", system: str = "Be helpful.") -> Body:
    return request_body(
        model="m",
        system=system,
        text=text,
        picture=the_picture(),
        mime="image/png",
        sampling={"seed": 1},
    )


@given(st.text(), st.text())
def test_the_spliced_body_is_the_json_that_an_encoder_would_make(text: str, system: str) -> None:
    user = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": the_url()}},
            {"type": "text", "text": text},
        ],
    }
    messages = [{"role": "system", "content": system}, user] if system else [user]
    expected = {"model": "m", "messages": messages, "stream": False, "seed": 1}

    assert json.loads(b"".join(body(text, system).pieces(the_picture()))) == expected


async def test_an_answer_comes_with_its_finish_reason_and_tokens(server: FaultServer) -> None:
    endpoint = Endpoint(server.url)
    answer = await endpoint.send(body(), 10)
    await endpoint.close()

    assert answer.text.startswith("A plain picture")
    assert (answer.finish, answer.model, answer.usage.prompt) == ("stop", "fault", 800)


@pytest.mark.parametrize(
    ("reaction", "error", "words"),
    [
        (fail(400, "bad image"), RejectedError, "bad image"),
        (fail(422, "odd\r\n  in lines\n"), RejectedError, "odd in lines$"),
        (fail(501), RejectedError, "501"),
        (fail(429), FullError, "429"),
        (fail(503), FullError, "503"),
        (fail(500), TransportError, "500"),
        (fail(502), TransportError, "502"),
        (fail(401, "no key"), NoEndpointError, "refuses the API key"),
        (fail(403, "not you"), TransportError, "not you"),
        (fail(404, "no such model"), TransportError, "no such model"),
        (
            Reaction(garbage=b'{"choices": [{"message": {"content": 42}}]}'),
            TransportError,
            "no chat",
        ),
        (Reaction(reset=True), TransportError, "broke"),
        (Reaction(text="half", half=True), TransportError, "broke"),
        (Reaction(garbage=b"<html>hello"), TransportError, "no chat completion"),
        (Reaction(garbage=b'{"choices": []}'), TransportError, "no chat completion"),
        (Reaction(garbage=b"[1]"), TransportError, "no chat completion"),
        (Reaction(hang=True), TransportError, "no answer within"),
    ],
)
async def test_every_failure_is_sorted_by_what_can_be_done(
    reaction: Reaction, error: type[Exception], words: str
) -> None:
    with serving(lambda _: reaction) as server:
        endpoint = Endpoint(server.url)
        with pytest.raises(error, match=words) as caught:
            await endpoint.send(body(), 0.5 if reaction.hang else 20)
        await endpoint.close()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reaction",
    [
        fail(400, "key sk-SE/CRET is over quota"),
        fail(503, "key sk-SE%2FCRET is over quota"),
        fail(500, "x" * 490 + " sk-SE/CRET"),
        fail(403, "key sk-SE/CRET"),
        Reaction(garbage=b"<html>key sk-SE/CRET"),
        Reaction(garbage=b"<html>" + b"x" * 70 + b"sk-SE/CRET"),
    ],
)
async def test_a_key_that_the_server_repeats_is_not_told(reaction: Reaction) -> None:
    with serving(lambda _: reaction) as server:
        endpoint = Endpoint(server.url, api_key="sk-SE/CRET")
        with pytest.raises(RequestError) as caught:
            await endpoint.send(body(), 5)
        await endpoint.close()

    assert "sk-" not in str(caught.value)


async def test_a_full_server_may_say_for_how_long() -> None:
    with serving(lambda _: fail(503, retry_after="7")) as server:
        endpoint = Endpoint(server.url)
        with pytest.raises(FullError) as caught:
            await endpoint.send(body(), 5)
        await endpoint.close()

    assert caught.value.retry_after == 7


async def test_a_refused_connection_is_unreachable() -> None:
    with serving() as server:
        url = server.url
    endpoint = Endpoint(url)
    with pytest.raises(UnreachableError, match="cannot connect"):
        await endpoint.send(body(), 5)
    with pytest.raises(NoEndpointError, match="cannot be reached"):
        await endpoint.probe(None)
    assert not await endpoint.healthy()
    await endpoint.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/v1", "cannot connect: Connection refused"),
        ("http://no-such-host.invalid/v1", "cannot connect: "),
    ],
)
async def test_why_a_server_cannot_be_reached_is_told_in_plain_words(url: str, words: str) -> None:
    endpoint = Endpoint(url)
    with pytest.raises(UnreachableError) as told:
        await endpoint.send(body(), 10)
    await endpoint.close()

    assert str(told.value).startswith(words)
    assert "ssl" not in str(told.value)
    assert "Errno" not in str(told.value)


async def test_a_null_answer_is_an_empty_text() -> None:
    answer = {"choices": [{"message": {"content": None}, "finish_reason": None}]}
    with serving(lambda _: Reaction(garbage=json.dumps(answer).encode())) as server:
        endpoint = Endpoint(server.url)
        got = await endpoint.send(body(), 5)
        await endpoint.close()

    assert (got.text, got.finish) == ("", "")


async def test_a_plain_server_gets_no_fields_of_vllm(server: FaultServer) -> None:
    endpoint = Endpoint(server.url)
    abilities = await endpoint.probe(None)
    await endpoint.close()

    assert (abilities.model, abilities.vllm, abilities.metrics) == ("fault", None, False)


async def test_a_model_that_is_not_served_is_named(server: FaultServer) -> None:
    endpoint = Endpoint(server.url)
    with pytest.raises(NoEndpointError, match="serves fault, but not other"):
        await endpoint.probe("other")
    await endpoint.close()


async def test_a_server_that_lists_odd_names_is_told_of_and_breaks_nothing() -> None:
    with serving(model=5) as server:
        endpoint = Endpoint(server.url)
        with pytest.raises(NoEndpointError, match="serves 5, but not joy"):
            await endpoint.probe("joy")
        await endpoint.close()


async def test_a_server_that_lists_no_models_is_asked_for_joycaption(
    server: FaultServer,
) -> None:
    server.model = ""
    endpoint = Endpoint(server.url)
    abilities = await endpoint.probe(None)
    await endpoint.close()

    assert abilities.model == "joycaption"


async def test_load_is_what_vllms_metrics_say(server: FaultServer) -> None:
    endpoint = Endpoint(server.url)
    assert await endpoint.load() is None
    server.gauges = (5, 9)

    assert await endpoint.load() == (5, 9)
    await endpoint.close()


async def test_more_than_a_hundred_requests_are_in_flight_at_once() -> None:
    import asyncio

    def slow(asked: Asked) -> Reaction:
        return say("ok then", delay=1.0)

    with serving(slow) as server:
        endpoint = Endpoint(server.url, connections=300)
        await asyncio.gather(*(endpoint.send(body(), 30) for _ in range(250)))
        await endpoint.close()

    assert server.peak > 200


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("http://gpu:8000/v1", "http://gpu:8000/v1"),
        ("http://gpu:8000/", "http://gpu:8000/v1"),
        ("gpu:8000", "http://gpu:8000/v1"),
        ("https://api.example.com/openai/v1/", "https://api.example.com/openai/v1"),
    ],
)
def test_urls_may_be_written_short(given_url: str, url: str) -> None:
    assert normal_url(given_url) == url


@pytest.mark.parametrize(
    "wrong",
    [
        "ftp://gpu:21", "http://gpu:abc/v1", "http://a,b", "",
        "http://a/v1 http://b/v1", "http://a/v1,http://b/v1", "http://a/v1\tgpu 1", "http://a/\x7f",
    ],
)  # fmt: skip
def test_what_is_no_url_is_a_usage_error(wrong: str) -> None:
    with pytest.raises(UsageError, match="base URL"):
        normal_url(wrong)


@given(st.text(st.characters(exclude_categories=()), max_size=12))
def test_whatever_passes_for_a_base_url_can_be_sent_to(rest: str) -> None:
    try:
        url = normal_url(f"http://gpu{rest}")
    except UsageError:
        return
    assert httpx2.URL(f"{url}/chat/completions").host


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        normal_url("http://user:secret@gpu:8000/v1")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["?api_key=secret", "/v1#secret", "/v1?a=secret&b"])
def test_a_query_in_a_url_is_refused_and_not_repeated(rest: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        normal_url(f"http://gpu:8000{rest}")

    assert "secret" not in str(caught.value)


def test_one_more_endpoint_costs_a_millisecond_or_two_so_that_a_job_does_not_stop_for_it() -> None:
    Endpoint("http://gpu")
    before = time.thread_time()
    for number in range(50):
        Endpoint(f"http://gpu{number}")

    assert time.thread_time() - before < 0.5, "each took 40 ms once"


async def test_a_proxy_is_not_asked_for_this_machines_own_servers(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    endpoint = Endpoint(server.url)
    await endpoint.probe(None)
    answer = await endpoint.send(body(), 10)
    await endpoint.close()

    assert answer.text
