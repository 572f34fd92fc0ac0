"""The pixels of any picture in RGB: what its mode, its alpha and its EXIF mean."""

from __future__ import annotations

import contextlib

from PIL import Image, ImageCms, ImageOps

from joycap_vllm.errors import ImageError

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any picture upright, whole, and in RGB on white; of an animation the first frame."""
    picture.load()
    upright = picture
    if picture.format != "JXL":  # which is upright as decoded, whatever its EXIF says
        with contextlib.suppress(Exception):  # damaged EXIF says nothing about the picture itself
            upright = ImageOps.exif_transpose(picture)
    return in_rgb(upright)


def in_rgb(picture: Image.Image) -> Image.Image:
    """A loaded picture in RGB on white, as it lies."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _eight_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data or picture.mode == "RGBa":
        pixels = picture.convert("RGBA")
        ground = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, pixels).convert("RGB")
    if picture.mode == "LAB":
        return _lab_to_rgb(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """How a picture, as decoded, is turned to stand upright; None where it does."""
    if picture.format == "JXL":
        return None
    with contextlib.suppress(Exception):
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    return None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Integers of 16 bits and floats to 0..255, by the range that their values show."""
    wide = picture.convert("F" if picture.mode == "F" else "I")
    top = float(max(e for e in wide.getextrema() if isinstance(e, int | float)))
    if picture.mode.startswith("I;16") or top > 255:
        factor = 1 / 257
    else:
        factor = 255.0 if picture.mode == "F" and top <= 1 else 1.0
    return wide.point(lambda value: value * factor + 0.5).convert("L")


def _lab_to_rgb(picture: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    if converted is None:
        raise ImageError("its LAB colours cannot be converted")
    return converted
