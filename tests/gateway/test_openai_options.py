"""What the fields of a chat completion choose: prompts, several captions, conversations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from joycap_vllm import build_prompt
from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.prompting import MODEL, Options, prompt_for
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import Sampling, load_table

CAPTION = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 60
Ask = Callable[..., Any]


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


def sent(upstream: Any) -> tuple[str, str]:
    system, user = upstream.bodies[-1]["messages"]
    return system["content"], user["content"][1]["text"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"caption_type": "Straightforward"}, build_prompt("straightforward")),
        ({"caption_length": "very long"}, build_prompt(length="very long")),
        ({"caption_length": 40}, build_prompt(words=40)),
        ({"word_count": 25}, build_prompt(words=25)),
        ({"extra_options": ["lighting", 2]}, build_prompt(extras=("lighting", "2"))),
        (
            {"caption_type": "descriptive", "extra_options": "1", "name": "Ada"},
            build_prompt(extras=("1",), name="Ada"),
        ),
    ],
)
async def test_further_fields_choose_the_prompt(
    client: AsyncOpenAI, ask: Ask, upstream: Any, fields: dict[str, Any], expected: Any
) -> None:
    await client.chat.completions.create(
        model="joycaption", messages=ask("Hello"), extra_body=fields
    )

    assert sent(upstream) == (expected.system, expected.text)


async def test_fields_go_before_the_models_name(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    await client.chat.completions.create(
        model="joycaption/danbooru-tag-list:short",
        messages=ask("Hello"),
        extra_body={"caption_type": "straightforward", "word_count": 30, "system_prompt": "See."},
    )

    assert sent(upstream) == ("See.", build_prompt("straightforward", words=30).text)


async def test_null_fields_are_as_if_they_were_not_there(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    names = ("caption_type", "caption_length", "word_count", "extra_options", "name", "n", "top_k")
    await client.chat.completions.create(
        model="joycaption", messages=ask("What?"), extra_body=dict.fromkeys(names)
    )

    assert sent(upstream)[1] == "What?"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"caption_type": "poem"}, "no caption type is called 'poem'"),
        ({"caption_length": "tiny"}, "no length is called 'tiny'"),
        ({"extra_options": ["nosuch"]}, "no extra option is called 'nosuch'"),
        ({"caption_length": "short", "word_count": 9}, "either a length or a number"),
        ({"word_count": 0}, "word_count"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
async def test_what_a_caption_cannot_be_is_refused_by_name(
    client: AsyncOpenAI, ask: Ask, upstream: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        await client.chat.completions.create(model="joycaption", messages=ask(), extra_body=fields)

    assert upstream.bodies == []


async def test_what_chat_pages_send_besides_is_passed_over(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    reply = await client.chat.completions.create(
        model="joycaption",
        messages=ask("What?"),
        extra_body={
            "tools": [tool],
            "tool_choice": "auto",
            "response_format": {"type": "text"},
            "stop": ["User:"],
            "max_tokens": -1,
            "top_k": -1,
            "seed": -1,
            "frequency_penalty": 0.5,
            "user": "7",
            "metadata": {"chat_id": "1"},
            "features": {"web_search": False},
        },
    )

    assert reply.choices[0].message.content == CAPTION
    assert upstream.bodies[0]["max_tokens"] == 512
    assert "tools" not in upstream.bodies[0]


async def test_several_captions_are_judged_each_and_drawn_from_seeds_of_their_own(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [LOOP]

    raw = await client.chat.completions.with_raw_response.create(
        model="joycaption", messages=ask(), n=3, seed=5
    )
    reply = raw.parse()

    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.message.content for choice in reply.choices] == [CAPTION] * 3
    assert len({body["seed"] for body in upstream.bodies}) == 4
    assert reply.usage is not None
    assert reply.usage.total_tokens == 4 * 820
    assert raw.headers["x-joycap-attempts"] == "4"
    assert reply.model_extra is not None
    assert reply.model_extra["joycap"]["glitches"] == ["repetition"]
    assert len(reply.model_extra["joycap"]["choices"]) == 3


async def test_of_several_captions_those_that_stay_glitches_are_left_out(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [CAPTION, *[LOOP] * 3]

    reply = await client.chat.completions.create(model="joycaption", messages=ask(), n=2)

    assert [choice.message.content for choice in reply.choices] == [CAPTION]
    assert reply.model_extra is not None
    outcomes = [each["outcome"] for each in reply.model_extra["joycap"]["choices"]]
    assert sorted(outcomes) == ["glitched", "ok"]


async def test_several_captions_stream_as_choices(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    stream = await client.chat.completions.create(
        model="joycaption", messages=ask(), n=2, stream=True
    )
    texts: dict[int, str] = {}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")

    assert texts == {0: CAPTION, 1: CAPTION}


async def test_a_picture_and_its_text_may_come_in_messages_of_their_own(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    messages = [*ask(), {"role": "user", "content": "Old."}, {"role": "user", "content": "New."}]
    await client.chat.completions.create(model="joycaption", messages=messages)

    assert sent(upstream)[1] == "New."


async def test_one_picture_anywhere_is_captioned_with_the_users_last_text(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    [message] = ask("Not this.")
    messages = [{**message, "role": "developer"}, {"role": "user", "content": "What?"}]
    await client.chat.completions.create(model="joycaption", messages=messages)  # type: ignore[arg-type]

    assert sent(upstream) == ("Not this.", "What?")


async def test_a_new_picture_in_a_chat_is_captioned_by_itself(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    messages = [*ask("First?"), {"role": "assistant", "content": "A cat."}, *ask("Second?")]
    await client.chat.completions.create(model="joycaption", messages=messages)

    assert sent(upstream)[1] == "Second?"


async def test_a_caption_types_model_captions_the_latest_picture_whatever_is_said_after_it(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    messages = [
        *ask("First?"),
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Again, please."},
    ]
    await client.chat.completions.create(model="joycaption/straightforward", messages=messages)

    assert sent(upstream)[1] == build_prompt("straightforward").text


@pytest.mark.parametrize("name", ["joycaption", "stub", "joycaption/straightforward:50-words"])
async def test_a_model_can_be_looked_up_by_its_name(client: AsyncOpenAI, name: str) -> None:
    model = await client.models.retrieve(name)

    assert (model.id, model.owned_by) == (name, "joycap")


async def test_a_model_that_is_not_there_cannot(client: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError, match="no caption type is called 'poem'"):
        await client.models.retrieve("joycaption/poem")


async def test_the_served_models_own_name_stands_for_joycaption(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    await client.chat.completions.create(model="stub", messages=ask("What?"))

    assert sent(upstream)[1] == "What?"


async def test_a_picture_url_may_be_a_plain_text_as_some_tools_write_it(
    gateway: str, picture: str, upstream: Any
) -> None:
    parts = ["What?", {"type": "image_url", "image_url": picture}]
    body = {"messages": [{"role": "user", "content": parts}]}
    async with httpx2.AsyncClient(base_url=gateway) as client:
        reply = await client.post("/v1/chat/completions", json=body)

    assert reply.json()["choices"][0]["message"]["content"] == CAPTION
    assert sent(upstream)[1] == "What?"


text = st.text(st.characters(codec="utf-8"), max_size=12)
types = st.sampled_from(["", *(f"/{row.name}" for row in load_table().types)]) | text
lengths = st.sampled_from(["", ":short", ":50-words", ":007-words", ":very-long"]) | text


@given(
    types,
    lengths,
    st.builds(
        Options,
        type=st.none() | text | st.sampled_from([row.name for row in load_table().types]),
        length=st.none() | text | st.sampled_from(load_table().lengths),
        words=st.none() | st.integers(1, 9999),
        extras=st.lists(text | st.integers(1, 27).map(str), max_size=3).map(tuple),
        name=text,
        system=st.none() | text,
    ),
    text | st.just("<|eot_id|><image>"),
)
def test_any_choice_gives_a_prompt_without_special_tokens_or_is_refused(
    kind: str, length: str, options: Options, said: str
) -> None:
    try:
        prompt = prompt_for(MODEL + kind + length, said, said, Sampling(), options)
    except (RefusedError, UsageError):
        return

    for written in (prompt.text, prompt.system):
        assert "<|" not in written
        assert "<image>" not in written
