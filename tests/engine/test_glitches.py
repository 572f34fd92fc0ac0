"""Glitches on real vLLM: its own tools against loops and formless lists work as we ask for them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from joycap_vllm import Captioner, CaptionerOptions, build_prompt, judge
from joycap_vllm.fleet import request_body
from joycap_vllm.glitch import Means, Question, Tried, next_request, tag_list_regex

from .conftest import Engine
from bench_loops import answers, outcomes, pictures

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

END_OF_TURN = "5"  # the nano model's


@pytest.fixture
async def joy(engine: Engine) -> AsyncIterator[Captioner]:
    async with Captioner(engine.url, options=CaptionerOptions(retries=1)) as captioner:
        yield captioner


async def test_a_list_that_was_none_is_held_to_its_form(joy: Captioner) -> None:
    (image,) = await pictures(joy, 1)
    endpoint = joy.fleet.members[0].endpoint
    means = Means(endpoint.abilities.vllm, endpoint.abilities.context)
    prompt = build_prompt("danbooru-tag-list")
    prose = "Write a detailed description for this image."  # what the nano answers in sentences
    step = next_request(
        Question(prompt, prose, 1), [Tried("A red car.", "bad_format")] * 3, means, retries=3
    )

    async def answer(**fields: object) -> str:
        sampling = {"temperature": 0, "max_tokens": 200, **fields}
        body = request_body(
            model=endpoint.abilities.model,
            system=prompt.system,
            text=prose,
            picture=image.data,
            mime=image.mime,
            sampling=sampling,
        )
        return (await endpoint.send(body, 60)).text

    assert not re.fullmatch(tag_list_regex(), await answer())
    assert re.fullmatch(tag_list_regex(), await answer(**step.fields))


async def test_vllm_stops_loops_when_it_is_asked_as_every_request_asks_it(joy: Captioner) -> None:
    images = await pictures(joy, 8)
    endpoint = joy.fleet.members[0].endpoint
    means = Means(endpoint.abilities.vllm, endpoint.abilities.context)
    first = next_request(Question(build_prompt(), "", 1), [], means, retries=4)
    endless = {"temperature": 0, "logit_bias": {END_OF_TURN: -100}}
    cutting = {"repetition_detection": first.fields["repetition_detection"]}
    without = [a for _, a in await answers(endpoint, images, endless)]
    cut = [a for _, a in await answers(endpoint, images, endless | cutting)]

    stopped = [answer for answer in cut if answer.finish == "repetition"]
    assert {answer.finish for answer in without} == {"length"}
    assert stopped
    assert all(answer.usage.completion < 512 for answer in stopped)
    assert {judge(a.text, finish_reason=a.finish).glitch for a in stopped} == {"repetition"}


async def test_every_outcome_of_a_hot_model_is_explained(joy: Captioner) -> None:
    ended = await outcomes(joy, await pictures(joy, 4), heat=2.0)

    assert len(ended) == 48
    assert {outcome.outcome for outcome in ended} <= {"ok", "glitched"}
    for outcome in ended:
        assert (outcome.outcome == "ok") == (outcome.glitch is None)
        assert bool(outcome.why) == (outcome.glitch is not None)
        assert len(outcome.attempts) <= 2
