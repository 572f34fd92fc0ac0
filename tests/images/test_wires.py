"""How pictures travel: encoded, or as they are stored."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from images.drawing import encoded, photograph, turned
from joycap_vllm.errors import ImageError
from joycap_vllm.images import ImagePool, Limits, Wire, prepare, squash

PHOTO = photograph(600, 500)
SMALL = squash(PHOTO)
WIRES: list[Wire] = ["jpeg", "png", "png0", "bmp", "original"]


@pytest.mark.parametrize("wire", ["png", "png0", "bmp"])
def test_lossless_wires_carry_the_same_pixels(wire: Wire) -> None:
    prepared = prepare(encoded(PHOTO, "PNG"), wire)
    shown = Image.open(io.BytesIO(prepared.data))
    shown.load()

    other = Image.open(io.BytesIO(prepare(encoded(PHOTO, "PNG"), "png").data))
    assert shown.tobytes() == other.convert("RGB").tobytes()
    assert (shown.size, shown.mode) == ((384, 384), "RGB")
    assert prepared.mime == f"image/{wire.removesuffix('0')}"


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("form", "mime"), [("JPEG", "jpeg"), ("PNG", "png")])
def test_what_is_as_the_model_takes_it_travels_as_it_is(wire: Wire, form: str, mime: str) -> None:
    data = encoded(SMALL, form)

    assert prepare(data, wire).data == data
    assert prepare(data, wire).mime == f"image/{mime}"


ODD = {
    "of another size": encoded(PHOTO),
    "gray": encoded(SMALL.convert("L")),
    "not opaque": encoded(SMALL.convert("RGBA"), "PNG"),
    "transparent in one colour": encoded(SMALL, "PNG", transparency=(1, 2, 3)),
    "turned": encoded(SMALL, exif=turned(6)),
    "with a profile": encoded(SMALL, icc_profile=b"odd" * 50),
    "moving": encoded(SMALL, "WEBP", save_all=True, append_images=[Image.new("RGB", (384, 384))]),
    "a WebP, which not every server reads": encoded(SMALL, "WEBP"),
    "a bitmap": encoded(SMALL, "BMP"),
    "cmyk": encoded(SMALL.convert("CMYK")),
    "a palette": encoded(SMALL.convert("P"), "PNG"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_the_model_does_not_take_is_made_so(kind: str) -> None:
    assert prepare(ODD[kind], "png").data != ODD[kind]


def test_exactly_means_that_nothing_travels_as_it_is() -> None:
    data = encoded(SMALL)

    assert prepare(data, "png", recipe="exact").mime == "image/png"


def test_what_would_travel_as_it_is_has_to_be_whole() -> None:
    data = encoded(SMALL)

    with pytest.raises(ImageError, match="damaged"):
        prepare(data[: len(data) // 2], "png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_originals_travel_undecoded(form: str, mode: str) -> None:
    data = encoded(PHOTO.convert(mode), form)
    prepared = prepare(data, "original")

    assert prepared.data == data
    assert (prepared.width, prepared.height, prepared.size) == (600, 500, len(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_original_costs_a_small_part_of_a_picture_that_is_made_anew(form: str) -> None:
    data = encoded(PHOTO.resize((1500, 1500)), form)
    seconds = {}
    for wire in WIRES[-2:]:
        before = time.thread_time()
        for _ in range(3):
            prepare(data, wire)
        seconds[wire] = time.thread_time() - before

    assert seconds["original"] < 0.3 * seconds["bmp"]


@pytest.mark.parametrize("chunk", [b"eXIf", b"zTXt", b"iTXt"])
def test_an_original_that_says_only_at_its_end_how_it_is_turned_gets_the_recipe(
    chunk: bytes,
) -> None:
    exif = bytes(turned(6))
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    told = {
        b"eXIf": exif.removeprefix(b"Exif\0\0"),
        b"zTXt": b"Raw profile type exif\0\0"
        + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())),
        b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + xmp,
    }[chunk]
    data, end = encoded(PHOTO, "PNG"), 12
    late = struct.pack(">I", len(told)) + chunk + told + struct.pack(">I", zlib.crc32(chunk + told))
    stored = data[:-end] + late + data[-end:]

    assert prepare(stored, "original").mime == "image/jpeg"


@pytest.mark.parametrize(
    "kind",
    [
        "not opaque",
        "transparent in one colour",
        "turned",
        "moving",
        "a bitmap",
        "cmyk",
        "a palette",
    ],
)
def test_originals_that_servers_read_differently_get_the_recipe(kind: str) -> None:
    prepared = prepare(ODD[kind], "original")

    assert prepared.mime == "image/jpeg"
    assert prepared.data == prepare(ODD[kind], "jpeg").data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_original_without_its_end_fails(form: str) -> None:
    with pytest.raises(ImageError, match="damaged"):
        prepare(encoded(PHOTO, form)[:-3000], "original")


def test_an_original_over_the_pixel_limit_fails() -> None:
    with pytest.raises(ImageError, match="600 x 500"):
        prepare(encoded(PHOTO), "original", Limits(pixels=10))


async def test_of_a_picture_nothing_stays_but_what_is_sent() -> None:
    stored = encoded(photograph(1000, 900), "PNG", compress_level=0)
    tracemalloc.start()
    try:
        with ImagePool(workers=2, wire="bmp") as pool:
            before = tracemalloc.get_traced_memory()[0]
            kept = [await pool.prepare(lambda: bytes(bytearray(stored))) for _ in range(8)]
            grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    sent = sum(len(prepared.data) for prepared in kept)
    assert sent < grown + 1e6
    assert grown < sent + len(stored)  # of 8 stored pictures not one is left
