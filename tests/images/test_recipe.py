"""The image recipe, against the same steps written out with Pillow."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image, ImageChops

from joycap_vllm.errors import ImageError
from joycap_vllm.images import ImagePool, Limits, Prepared, prepare, squash, to_rgb


def noise(mode: str, size: tuple[int, int] = (150, 90)) -> Image.Image:
    rng = random.Random(7)
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, rng.randbytes(size[0] * size[1] * bands))


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def sent(prepared: Prepared) -> Image.Image:
    return Image.open(io.BytesIO(prepared.data))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def test_exactly_a_photograph_is_squashed_with_lanczos_pixel_for_pixel() -> None:
    data = encoded(noise("RGB", (640, 480)), "JPEG", quality=92)
    expected = Image.open(io.BytesIO(data)).resize((384, 384), Image.Resampling.LANCZOS)

    assert same(expected, sent(prepare(data, "png", recipe="exact")))
    assert same(expected, sent(prepare(data, "bmp", recipe="exact")))


def test_the_jpeg_wire_is_quality_95_without_subsampling() -> None:
    data = encoded(noise("RGB"), "PNG")
    whole = noise("RGB").resize((384, 384), Image.Resampling.LANCZOS)
    expected = Image.open(io.BytesIO(encoded(whole, "JPEG", quality=95, subsampling=0)))

    assert same(expected, sent(prepare(data, "jpeg")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_stands_on_white(mode: str) -> None:
    picture = noise(mode)
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    expected = Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")

    assert same(expected, to_rgb(picture))
    assert same(squash(expected), sent(prepare(encoded(picture, "PNG"), "png")))


def test_a_palette_with_transparency_stands_on_white() -> None:
    picture = Image.new("P", (10, 10), 1)
    picture.putpalette([0, 0, 0, 200, 10, 10])
    data = encoded(picture, "PNG", transparency=1)

    assert sent(prepare(data, "png")).getpixel((5, 5)) == (255, 255, 255)


def test_cmyk_becomes_rgb() -> None:
    data = encoded(noise("CMYK"), "JPEG", quality=95)
    expected = squash(Image.open(io.BytesIO(data)).convert("RGB"))

    assert same(expected, sent(prepare(data, "png")))


def test_sixteen_bits_keep_their_brightness() -> None:
    picture = Image.new("I;16", (20, 20), 0x8080)

    assert sent(prepare(encoded(picture, "PNG"), "png")).getpixel((5, 5)) == (128, 128, 128)


@pytest.mark.parametrize(
    "mode",
    "1 L LA P PA RGB RGBA RGBX CMYK YCbCr HSV LAB I F I;16 I;16L I;16B La RGBa".split(),
)
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (10, 20))).mode == "RGB"


def test_exif_turns_the_picture_upright() -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    prepared = prepare(encoded(picture, "JPEG", quality=100, exif=exif), "png")

    top, bottom = sent(prepared).getpixel((192, 40)), sent(prepared).getpixel((192, 340))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 200
    assert bottom[0] > 200


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (30, 30), color) for color in ("green", "red")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert sent(prepare(data, "png")).getpixel((9, 9)) == (0, 128, 0)


@pytest.mark.parametrize("size", [(1, 1), (30000, 2), (2, 30000), (384, 384)])
def test_odd_shapes_are_squashed_like_any_other(size: tuple[int, int]) -> None:
    prepared = prepare(encoded(Image.new("RGB", size, "red"), "PNG"), "png")

    assert sent(prepared).size == (384, 384)
    assert (prepared.width, prepared.height) == size


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"just some text\n", "text"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b'{"error": "gone"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not an image|damaged"),
        (encoded(noise("RGB"), "JPEG")[:-200], "damaged.*truncated"),
        (encoded(noise("RGB"), "PNG")[:-3000], "damaged"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        prepare(data)


def test_a_decompression_bomb_is_refused_unread() -> None:
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")

    with pytest.raises(ImageError, match="179 million pixels"):
        prepare(bomb)


def test_the_pixel_limit_can_be_set() -> None:
    data = encoded(Image.new("RGB", (100, 100)), "PNG")

    with pytest.raises(ImageError, match="100 x 100"):
        prepare(data, limits=Limits(pixels=9999))


async def test_the_pool_works_off_the_loop_and_passes_errors_on() -> None:
    data = encoded(noise("RGB"), "PNG")
    with ImagePool(workers=2) as pool:
        prepared = await pool.prepare(lambda: data)

        assert prepared == prepare(data, "jpeg")
        with pytest.raises(ImageError, match="empty"):
            await pool.prepare(lambda: b"")
