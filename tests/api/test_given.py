"""What the Python API takes for a picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pybase64
import pytest
from images.drawing import decibels, encoded, photograph, turned
from PIL import Image
from sources.helping import web_server

from api.coloured import caption_of, picture, png
from joycap_vllm import Captioner, CaptionerOptions, ImageError, ImageLike, Limits
from joycap_vllm.images import prepare

from fault_server import FaultServer

KINDS: dict[str, Callable[[Path], ImageLike]] = {
    "a path": lambda path: path,
    "a path as text": str,
    "bytes": lambda path: path.read_bytes(),
    "a PIL image": lambda path: picture(7),
    "a PIL image that is not read yet": Image.open,
    "a data URL": lambda path: f"data:image/png;base64,{pybase64.b64encode(png(7)).decode()}",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_picture_is(kind: str, tmp_path: Path, server: FaultServer) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(png(7))
    async with Captioner(server.url) as joy:
        assert await joy.caption(KINDS[kind](path)) == caption_of(7)


async def test_a_picture_behind_a_url_is_fetched_where_that_is_allowed(server: FaultServer) -> None:
    with web_server() as web:
        url = web.bytes_at("/seven.png", png(7))
        async with Captioner(server.url, options=CaptionerOptions(private_urls=True)) as joy:
            assert await joy.caption(url) == caption_of(7)


async def test_addresses_inside_the_network_are_refused_by_default(server: FaultServer) -> None:
    with web_server() as web:
        url = web.bytes_at("/seven.png", png(7))
        async with Captioner(server.url) as joy:
            with pytest.raises(ImageError, match="private_urls=True") as caught:
                await joy.caption(f"{url}?token=s3cret")

    assert web.asked == []
    assert "s3cret" not in str(caught.value)
    assert "--" not in str(caught.value), "callers in Python have no flags"


BAD: dict[str, tuple[object, str]] = {
    "no file": ("nowhere/dog.jpg", "nowhere/dog.jpg: the file cannot be read: No such file"),
    "a folder": (Path(), "regular file"),
    "an empty file": (b"", "0 bytes"),
    "text": (b"hello", "it looks like text"),
    "nothing": (None, "not as builtins.NoneType"),
    "a number": (7, "not as builtins.int"),
    "another scheme": ("s3://bucket/dog.jpg", "s3:// is not read here"),
    "a data URL without data": ("data:image/png;base64,%%%%", "no base64"),
    "a path of bytes that hold a NUL": ("a\0b.png", "path can be none"),
    "a PIL image over the limit": (Image.new("L", (400, 300)), "Limits"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_is_no_picture_is_refused_with_its_reason(
    kind: str, server: FaultServer
) -> None:
    image: Any
    image, why = BAD[kind]
    options = CaptionerOptions(limits=Limits(pixels=100_000))
    async with Captioner(server.url, options=options) as joy:
        with pytest.raises(ImageError, match=why):
            await joy.caption(image)
        async for done in joy.caption_many([image]):
            assert done.outcome.outcome == "failed"
            assert why in done.outcome.why

    assert server.requests == 1, "nobody is asked but for the test picture"


async def test_a_picture_that_is_closed_is_told_of(tmp_path: Path, server: FaultServer) -> None:
    picture(7).save(tmp_path / "seven.png")
    with Image.open(tmp_path / "seven.png") as opened:
        pass
    async with Captioner(server.url) as joy:
        with pytest.raises(ImageError, match=r"seven\.png"):
            await joy.caption(opened)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "YCbCr"])
def test_a_held_picture_is_prepared_as_its_file_would_be(mode: str) -> None:
    held = photograph(500, 400).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        held = held.convert("I").point(lambda value: value * 257 + 0.0).convert("I;16")
    kind = "TIFF" if mode in ("CMYK", "I;16", "YCbCr") else "PNG"
    options = {"quality": 100} if kind == "JPEG" else {}
    from_file, from_memory = (
        Image.open(io.BytesIO(prepare(data, "png").data))
        for data in (encoded(held, kind, **options), held)
    )

    assert decibels(from_file, from_memory) == float("inf")


def test_a_held_picture_stands_upright_and_is_left_as_it_is() -> None:
    data = encoded(photograph(400, 300), exif=turned(6))
    with Image.open(io.BytesIO(data)) as held:
        prepared = prepare(held, "png")
        assert (prepared.width, prepared.height, held.size) == (400, 300, (400, 300))
        assert held.getexif()[0x0112] == 6
    upright = Image.open(io.BytesIO(prepare(data, "png", recipe="exact").data))

    assert decibels(Image.open(io.BytesIO(prepared.data)), upright) > 50


async def test_one_picture_may_be_asked_about_by_several_at_once(
    tmp_path: Path, server: FaultServer
) -> None:
    photograph(900, 700).save(tmp_path / "big.png")
    async with Captioner(server.url, options=CaptionerOptions(workers=4)) as joy:
        for _ in range(5):
            with Image.open(tmp_path / "big.png") as lazy:
                captions = await asyncio.gather(*(joy.caption(lazy) for _ in range(8)))
            assert len(set(captions)) == 1
