"""Streamed answers, read while they come."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet import Usage
from joycap_vllm.fleet.live import read_live

END = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 800,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 7},
}


def chunk(content: str | None, finish: str | None = None) -> bytes:
    delta = {"role": "assistant"} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"model": "nano", "choices": choices}) + b"\n\n"


def usage() -> bytes:
    return b"data: " + orjson.dumps({"model": "nano", "choices": [], "usage": USAGE}) + b"\n\n"


async def cut(data: bytes, at: list[int]) -> AsyncIterator[bytes]:
    edges = [0, *sorted(at), len(data)]
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


@given(
    st.lists(st.text(max_size=9), min_size=1, max_size=6),
    st.lists(st.integers(0, 2000), max_size=9),
    st.sampled_from([b"\n", b"\r\n"]),
)
async def test_an_answer_is_the_same_wherever_its_stream_is_cut(
    words: list[str], at: list[int], end: bytes
) -> None:
    # Line separators that are no line ends in JSON, too, such as U+2028.
    chunks = [chunk(None), *map(chunk, words), chunk("", "stop"), usage(), END]
    data = b": a comment\n\n" + b"".join(chunks).replace(b"\n", end)
    told: list[str] = []

    answer = await read_live(cut(data, [min(each, len(data)) for each in at]), told.append)

    assert answer.text == "".join(words)
    assert (answer.finish, answer.model, answer.usage) == ("stop", "nano", Usage(800, 7, 9))
    assert told == sorted(set(told), key=len)
    assert (told or [""])[-1] == answer.text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (chunk("A red"), "broke off"),
        (chunk("A red") + END, "broke off"),
        (b"", "broke off"),
        (
            chunk("A") + b'data: {"error": {"message": "engine sk-1 died"}}\n\n',
            r"engine \*\*\* died",
        ),
        (b'data: {"error": "sk-1"}\n\n', r"ended its answer: \*\*\*"),
        (b"data: {half\n\n", "no chat completion: '{half'"),
        (b'data: ["sk-1"]\n\n', r"no chat completion: '\[\"\*\*\*\"\]'"),
        (b'data: {"choices": [{"delta": {"content": 7}}]}\n\n', "no chat completion"),
    ],
)
async def test_a_stream_that_is_no_whole_answer_is_broken(data: bytes, words: str) -> None:
    with pytest.raises(TransportError, match=words):
        await read_live(cut(data, []), lambda _: None, key="sk-1")
