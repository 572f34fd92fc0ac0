"""All of the public API, as a user's own program would use it; type checkers read it.

Nothing runs it: what runs stands in the other tests. `assert_type` says what checkers must infer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, assert_type

from PIL import Image

import joycap_vllm
from joycap_vllm import (
    Captioned,
    Captioner,
    CaptionerOptions,
    FleetOptions,
    ImageError,
    ImageLike,
    JoycapError,
    Limits,
    NoCaptionError,
    NoEndpointError,
    Outcome,
    Prompt,
    Sampling,
    SyncCaptioner,
    UsageError,
    Verdict,
    build_prompt,
    custom_prompt,
    judge,
)

PROMPT: Prompt = build_prompt(
    "straightforward", words=50, extras=["lighting", "4"], sampling=Sampling(temperature=0.5)
)
OWN = custom_prompt("Name the colours.", style="tags", system="You are brief.")
OPTIONS = CaptionerOptions(
    model="joycaption",
    api_key="key",
    retries=2,
    wire="jpeg",
    recipe="exact",
    workers=2,
    limits=Limits(pixels=10_000_000),
    check=False,
    fleet=FleetOptions(concurrency=8, deadline=60, patience=10),
    private_urls=True,
)


def pictures() -> Iterator[Path]:
    yield from Path("photos").rglob("*.jpg")


async def camera() -> AsyncIterator[bytes]:
    while True:
        yield b"..."


async def one() -> str:
    async with Captioner("http://a:8000/v1", "http://b:8000/v1", options=OPTIONS) as joy:
        assert_type(joy, Captioner)
        held = Image.new("RGB", (8, 8))
        given: list[ImageLike] = ["dog.jpg", Path("dog.jpg"), b"...", held, "https://a.b/c.jpg"]
        for image in given:
            await joy.caption(image)
        try:
            return assert_type(await joy.caption("dog.jpg", PROMPT), str)
        except (ImageError, NoCaptionError, NoEndpointError, UsageError) as error:
            problem: JoycapError = error
            return str(problem)


async def many() -> None:
    async with Captioner() as joy:
        async for done in joy.caption_many(pictures(), ["descriptive", OWN], in_order=True):
            assert_type(done, Captioned[Path])
            assert_type(done.input, Path)
            assert_type(done.caption, str | None)
            assert_type(done.outcome, Outcome)
        async with aclosing(joy.caption_many(camera())) as frames:
            async for frame in frames:
                assert_type(frame.input, bytes)
                break
        rows: list[dict[str, Any]] = [{"path": "a.jpg", "id": 7}]
        async for row in joy.caption_many(rows, image=lambda row: Path(row["path"])):
            assert_type(row.input, dict[str, Any])
            assert_type((row.index, row.prompt), tuple[int, str])


def without_async() -> dict[Path, str]:
    joy = SyncCaptioner("http://a:8000/v1", options=OPTIONS)
    assert_type(joy.caption("dog.jpg"), str)
    joy.close()
    with SyncCaptioner() as joy:
        pairs = [(1, "a.jpg"), (2, "b.jpg")]
        for done in joy.caption_many(pairs, image=lambda pair: pair[1]):
            assert_type(done.input, tuple[int, str])
        return {d.input: d.caption for d in joy.caption_many(pictures()) if d.caption is not None}


def judged() -> Verdict:
    verdict = judge("A dog.", style="prose", finish_reason="stop", prompt="Describe it.", words=9)
    assert_type((verdict.ok, verdict.why), tuple[bool, str])
    if verdict.glitch == "repetition":
        print(joycap_vllm.__version__)
    return verdict


if __name__ == "__main__":
    print(asyncio.run(one()), without_async(), judged())
