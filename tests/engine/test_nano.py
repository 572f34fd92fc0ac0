"""The nano model keeps its card's promise, greedy, on pictures it has never seen."""

from __future__ import annotations

import asyncio
import io
import random

import pytest

from joycap_vllm import Captioner, Sampling, build_prompt

from .conftest import Engine
from draw_pictures import draw, random_scene
from show_captions import is_right

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

TYPES = ("descriptive", "straightforward", "booru-like-tag-list")


async def test_at_least_95_percent_of_captions_are_right_for_each_type(engine: Engine) -> None:
    rng = random.Random(987654321)
    scenes = [random_scene(rng) for _ in range(200)]
    right = dict.fromkeys(TYPES, 0)
    async with Captioner(engine.url) as joy:

        async def ask(number: int) -> None:
            scene, buffer = scenes[number], io.BytesIO()
            size = ((640, 480), (512, 512), (480, 640))[number % 3]
            draw(scene, random.Random(number), *size).save(buffer, "PNG")
            image = await joy.pool.prepare(buffer.getvalue)
            for name in TYPES:
                prompt = build_prompt(name, sampling=Sampling(temperature=0, seed=1))
                outcome = await joy.outcome(image, prompt, key=str(number))
                right[name] += is_right(outcome.caption or "", scene)

        async with asyncio.TaskGroup() as group:
            for number in range(len(scenes)):
                group.create_task(ask(number))

    print(f"right of 200: {right}")
    assert all(count >= 190 for count in right.values()), right
