"""The gateway as tools see it, through the real openai client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pybase64
import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError, NotFoundError

from joycap_vllm import build_prompt
from joycap_vllm.images import prepare

CAPTION = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 60
REFUSAL = "I'm sorry, but I can't help with that request."
Ask = Callable[..., Any]


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none") as client:
        yield client


async def test_a_caption_comes_back_as_a_chat_completion(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="joycaption/straightforward", messages=ask()
    )
    reply = raw.parse()

    assert reply.choices[0].message.content == CAPTION
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "joycaption/straightforward"
    assert reply.model_extra == {"joycap": {"outcome": "ok", "attempts": 1, "glitches": []}}
    assert raw.headers["x-joycap-attempts"] == "1"
    assert raw.headers["x-joycap-glitches"] == ""


async def test_glitches_are_asked_again_and_never_seen(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [LOOP, REFUSAL, CAPTION]

    raw = await client.chat.completions.with_raw_response.create(model="joycaption", messages=ask())
    reply = raw.parse()

    assert reply.choices[0].message.content == CAPTION
    assert raw.headers["x-joycap-attempts"] == "3"
    assert raw.headers["x-joycap-glitches"] == "repetition,refusal"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2400, 60)
    assert len({body["seed"] for body in upstream.bodies}) == 3


async def test_a_loop_that_the_server_stopped_is_asked_again(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [("A red circle, a red circle", "repetition"), CAPTION]

    raw = await client.chat.completions.with_raw_response.create(model="joycaption", messages=ask())

    assert raw.headers["x-joycap-glitches"] == "repetition"
    assert raw.parse().choices[0].finish_reason == "stop"


async def test_a_finish_reason_that_openai_does_not_know_never_reaches_a_tool(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [(CAPTION, "eos_token")]

    reply = await client.chat.completions.create(model="joycaption", messages=ask())

    assert reply.choices[0].finish_reason == "stop"


async def test_a_glitch_that_stays_is_an_error_that_openais_client_does_not_repeat(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [LOOP] * 9

    with pytest.raises(InternalServerError) as caught:
        await client.chat.completions.create(model="joycaption", messages=ask())

    assert caught.value.status_code == 502
    assert caught.value.type == "glitch"
    assert caught.value.code == "repetition"
    assert "red circle, red circle, red circle, red circle" not in caught.value.response.text
    assert caught.value.response.headers["x-joycap-attempts"] == "3"
    assert len(upstream.bodies) == 3


async def test_a_stream_is_the_judged_caption_its_end_and_done(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [("A red circle lies in", "length"), CAPTION]

    stream = await client.chat.completions.create(
        model="joycaption", messages=ask(), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert texts == [CAPTION, None]
    assert chunks[1].choices[0].finish_reason == "stop"
    assert chunks[0].model_extra == {
        "joycap": {"outcome": "ok", "attempts": 2, "glitches": ["truncated"]}
    }
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 1640


async def test_pictures_go_through_the_image_recipe(
    client: AsyncOpenAI, ask: Ask, upstream: Any, picture: str
) -> None:
    await client.chat.completions.create(model="joycaption", messages=ask("What is it?"))

    stored = pybase64.b64decode(picture.partition(",")[2])
    [part, text] = upstream.bodies[0]["messages"][-1]["content"]
    sent = pybase64.b64encode(prepare(stored, "png0").data).decode()
    assert part["image_url"]["url"] == f"data:image/png;base64,{sent}"
    assert text == {"type": "text", "text": "What is it?"}


async def test_the_requests_own_system_prompt_and_sampling_are_used(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    await client.chat.completions.create(
        model="joycaption",
        messages=ask("What is it?", system="You see little."),
        temperature=0.25,
        top_p=0.5,
        max_tokens=77,
        seed=4711,
    )

    body = upstream.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "You see little."}
    assert (body["temperature"], body["top_p"]) == (0.25, 0.5)
    assert (body["max_tokens"], body["seed"]) == (77, 4711)


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("joycaption", "", build_prompt()),
        ("joycaption:short", "Hello", build_prompt(length="short")),
        ("joycaption/straightforward", "Hello", build_prompt("straightforward")),
        ("joycaption/descriptive:50-words", "", build_prompt(words=50)),
        ("joycaption/descriptive:very-long", "", build_prompt(length="very long")),
    ],
)
async def test_a_models_name_chooses_the_prompt(
    client: AsyncOpenAI, ask: Ask, upstream: Any, model: str, text: str, expected: Any
) -> None:
    await client.chat.completions.create(model=model, messages=ask(text))

    system, user = upstream.bodies[0]["messages"]
    assert system["content"] == expected.system
    assert user["content"][1]["text"] == expected.text


async def test_without_a_seed_asking_again_draws_anew(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    for _ in range(2):
        await client.chat.completions.create(model="joycaption", messages=ask())

    first, second = upstream.bodies
    assert first["seed"] != second["seed"]


async def test_every_caption_type_is_a_model(client: AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]

    assert len(names) == 14
    assert names[:2] == ["joycaption", "stub"]  # and the model that is served
    assert {"joycaption/straightforward", "joycaption/danbooru-tag-list"} < set(names)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/cat.jpg", "data: URL"),
        ("data:image/png;base64,!!!!", "base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,aGVsbG8gd29ybGQ=", "looks like text"),
    ],
)
async def test_an_unusable_picture_is_a_bad_request_with_the_reason(
    client: AsyncOpenAI, ask: Ask, upstream: Any, url: str, words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        await client.chat.completions.create(model="joycaption", messages=ask(url=url))

    assert upstream.bodies == []


async def test_a_request_about_several_pictures_is_refused(client: AsyncOpenAI, ask: Ask) -> None:
    with pytest.raises(BadRequestError, match="this request holds 2"):
        await client.chat.completions.create(model="joycaption", messages=[*ask(), *ask()])


@pytest.mark.parametrize("model", ["gpt-4o", "joycaption/", "joycaption/poem", "joycaptionist"])
async def test_an_unknown_model_is_not_found(client: AsyncOpenAI, ask: Ask, model: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.chat.completions.create(model=model, messages=ask())

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "joycaption:tiny"}, "no length is called 'tiny'"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 9}, "n must be 1 to 8"),
        ({"n": 0}, "n must be 1 to 8"),
    ],
)
async def test_a_wrong_option_is_named(
    client: AsyncOpenAI, ask: Ask, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        await client.chat.completions.create(messages=ask(), **{"model": "joycaption", **fields})


async def test_the_servers_refusal_is_told_in_its_words(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script.append(400)

    with pytest.raises(BadRequestError, match="as told"):
        await client.chat.completions.create(model="joycaption", messages=ask())


async def test_special_tokens_of_a_tool_reach_no_tokenizer(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    await client.chat.completions.create(
        model="joycaption", messages=ask("<image>Describe<|eot_id|> it.")
    )

    text = upstream.bodies[0]["messages"][-1]["content"][1]["text"]
    assert "<image>" not in text
    assert "<|" not in text


async def test_a_caller_that_leaves_ends_its_request_at_the_server(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    task = asyncio.create_task(client.chat.completions.create(model="joycaption", messages=ask()))
    await upstream.arrived.wait()
    task.cancel()

    async with asyncio.timeout(10):
        await upstream.left.wait()
    await asyncio.gather(task, return_exceptions=True)
    assert len(upstream.bodies) == 1
