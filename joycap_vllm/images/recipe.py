"""The image recipe: what JoyCaption was trained on, made from whatever users have.

Upright by EXIF; every mode to RGB, alpha on white; squashed to 384x384 with LANCZOS. The author
squashes on the client for its quality (fpgaminer/joycaption scripts/batch-caption.py @8445b2e).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from joycap_vllm.errors import ImageError
from joycap_vllm.images.decoders import register, why_unread

SIZE = 384
RECIPE = "upright-rgb-white-384-lanczos-1"
Wire = Literal["jpeg", "png", "bmp"]

_WIRE_OPTIONS: dict[Wire, dict[str, int]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {"compress_level": 1},
    "bmp": {},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused unread.

    Args:
        pixels: Most pixels of a picture; the default is that of Pillow and vLLM.
        file_bytes: Most bytes of a file.
    """

    pixels: int = 178_956_970
    file_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image, ready to be sent.

    Args:
        data: The picture as it is sent, made once for all requests about this image.
        mime: What it is, such as `image/jpeg`.
        width: Width of the picture as stored, in pixels.
        height: Height likewise.
        size: Bytes of the picture as stored.
        sha256: Hex digest of the picture as stored.
    """

    data: bytes
    mime: str
    width: int
    height: int
    size: int
    sha256: str


def prepare(data: bytes, wire: Wire = "jpeg", limits: Limits | None = None) -> Prepared:
    """The whole recipe for the bytes of one picture.

    Raises:
        ImageError: The bytes are empty, no picture, damaged, or over a limit.
    """
    limits = limits or Limits()
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    register()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            _require_pixels(width, height, limits)
            small = squash(to_rgb(picture))
    except ImageError:
        raise
    except UnidentifiedImageError:
        looks = f"not an image that can be read ({_what_it_looks_like(data)})"
        raise ImageError(why_unread(data) or looks) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_many_pixels("its size", limits)) from None
    except Exception as error:  # a decoder may raise anything at all on a damaged file
        raise ImageError(f"the image is damaged: {_in_words(error)}") from error
    return Prepared(
        data=_encode(small, wire),
        mime=f"image/{wire}",
        width=width,
        height=height,
        size=len(data),
        sha256=sha256(data).hexdigest(),
    )


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any picture upright, whole, and in RGB on white; of an animation the first frame."""
    picture.load()
    upright = picture
    if picture.format != "JXL":  # which is upright as decoded, whatever its EXIF says
        with contextlib.suppress(Exception):  # damaged EXIF says nothing about the picture itself
            upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = _eight_bits(upright)
    if upright.mode == "La":
        upright = upright.convert("LA")
    if upright.has_transparency_data or upright.mode == "RGBa":
        pixels = upright.convert("RGBA")
        ground = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, pixels).convert("RGB")
    if upright.mode == "LAB":
        return _lab_to_rgb(upright)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def squash(picture: Image.Image) -> Image.Image:
    """384 x 384, whatever the shape was: the model expects a squash, not padding."""
    if picture.size == (SIZE, SIZE):
        return picture
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


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


def _encode(picture: Image.Image, wire: Wire) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, wire.upper(), **_WIRE_OPTIONS[wire])
    return buffer.getvalue()


def _require_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ImageError(_too_many_pixels(f"{width} x {height}", limits))


def _too_many_pixels(what: str, limits: Limits) -> str:
    return (
        f"{what} is over the limit of {limits.pixels / 1e6:.0f} million pixels "
        "(--max-pixels raises it)"
    )


def _what_it_looks_like(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it looks like an HTML page"
    if head.startswith((b"{", b"[")):
        return "it looks like JSON"
    with contextlib.suppress(UnicodeDecodeError):
        if data[:512].decode("utf-8").strip().replace("\n", " ").isprintable():
            return "it looks like text"
    return f"it begins with {data[:8].hex(' ')}"


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__
