"""Several prompts on an image, on a real vLLM: is it worth not to send the picture again?

Four ways to ask three prompts about an image: all at once, each with the picture, as joycap does;
the first one alone, then the others with it; the others with only the `uuid` that the first one
gave the picture; and all in one request to `/v1/chat/completions/batch`, its later conversations
with only the uuid. Prints captions a second and the server's CPU for each caption, medians of
rounds that draw pictures of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
import pybase64
from serving import cpu_seconds, nano_server

from joycap_vllm import build_prompt
from joycap_vllm.images import Prepared, prepare

from draw_pictures import draw, random_scene

TEXTS = [
    build_prompt(name).text for name in ("descriptive", "straightforward", "booru-like-tag-list")
]
SYSTEM = build_prompt().system
SAMPLING = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 512, "seed": 1}
WAYS = ("at once", "after the first", "by uuid after the first", "one batch request")
AT_ONCE = 8  # images


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all four ways, round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with nano_server() as url:
        asyncio.run(rounds(url, given.images, given.rounds))


async def rounds(url: str, images: int, count: int) -> None:
    """Measures, and prints the table; the first round only warms up."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    async with aiohttp.ClientSession() as session:
        for number in range(count + 1):
            for way in WAYS:
                pictures = [picture(f"{number} {way} {image}") for image in range(images)]
                began, used = time.monotonic(), cpu_seconds(url)
                await all_images(session, url, way, pictures)
                tasks = len(pictures) * len(TEXTS)
                rates[way].append(tasks / (time.monotonic() - began))
                costs[way].append((cpu_seconds(url) - used) / tasks * 1000)
    print("| three prompts on an image | captions/s | server's CPU, ms a caption |")
    print("|---|---|---|")
    for way in WAYS:
        rate, cost = (statistics.median(of[way][1:]) for of in (rates, costs))
        print(f"| {way} | {rate:.1f} | {cost:.1f} |")


async def all_images(
    session: aiohttp.ClientSession, url: str, way: str, pictures: Sequence[Prepared]
) -> None:
    """Every prompt about every picture, a few images at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(image: Prepared) -> None:
        async with room:
            await ask(session, url, way, image)

    await asyncio.gather(*map(one, pictures))


async def ask(session: aiohttp.ClientSession, url: str, way: str, image: Prepared) -> None:
    """All prompts about one picture."""

    async def post(path: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        async with session.post(url + path, data=body, headers=headers) as response:
            response.raise_for_status()
            await response.read()

    first, *others = TEXTS
    if way == "one batch request":
        talks = [talk(first, image), *(talk(text, None, image.sha256) for text in others)]
        return await post("/chat/completions/batch", body(talks, image))
    if way != "at once":
        await post("/chat/completions", body(talk(first, image), image))
    by_uuid = way == "by uuid after the first"
    rest = TEXTS if way == "at once" else others
    talks = [talk(text, None if by_uuid else image, image.sha256) for text in rest]
    await asyncio.gather(*(post("/chat/completions", body(t, image)) for t in talks))
    return None


def talk(text: str, image: Prepared | None, uuid: str = "") -> list[dict[str, Any]]:
    """The messages about a picture, or about the one with that uuid."""
    part: dict[str, Any] = {
        "type": "image_url",
        "image_url": None if image is None else {"url": "@"},
        "uuid": uuid if image is None else image.sha256,
    }
    content = [part, {"type": "text", "text": text}]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def body(messages: list[Any], image: Prepared) -> bytes:
    """A request with the picture put where the messages hold a place for it."""
    encoded = orjson.dumps({"model": "joycap-nano", "messages": messages, **SAMPLING})
    url = b"".join(
        (b'"data:', image.mime.encode(), b";base64,", pybase64.b64encode(image.data), b'"')
    )
    return encoded.replace(b'"@"', url)


def picture(name: str) -> Prepared:
    """A random scene of that name, prepared."""
    rng, buffer = random.Random(name), io.BytesIO()
    draw(random_scene(rng), rng).save(buffer, "PNG")
    return prepare(buffer.getvalue(), "bmp")


if __name__ == "__main__":
    main()
