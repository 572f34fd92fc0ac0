"""The image recipe: what JoyCaption was trained on, made from whatever users have.

Upright by EXIF; every mode to RGB, alpha on white; squashed to 384x384 with LANCZOS. The author
squashes on the client for its quality (fpgaminer/joycaption scripts/batch-caption.py @8445b2e).

`exact` is Pillow alone, from all pixels. `default` lets libjpeg leave out what the squash drops
anyway, down to twice its size, and is 50 dB from exact or closer; only line drawings stored as
JPEGs of 1536 pixels and more each way may be 39. `fast` goes down to its size: 35 dB from exact
where a photograph is full of fine lines.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from joycap_vllm.errors import ImageError
from joycap_vllm.images.decoders import register, why_unread
from joycap_vllm.images.pixels import in_rgb, to_rgb, turn_of
from joycap_vllm.images.resize import SIZE, squash, squash_fast
from joycap_vllm.images.wires import Wire, as_readable, as_taken, encode

Recipe = Literal["default", "exact", "fast"]

_NAMES: dict[Recipe, str] = {
    "default": "upright-rgb-white-384-lanczos-2",
    "exact": "upright-rgb-white-384-lanczos-1",
    "fast": "upright-rgb-white-384-lanczos-fast-1",
}
_LOCKS = tuple(threading.Lock() for _ in range(64))
_LEAST: dict[Recipe, int] = {"default": 2 * SIZE, "fast": SIZE}  # pixels that are decoded


def recipe_name(recipe: Recipe, wire: Wire | None = None) -> str:
    """The recipe's name in fingerprints: another name, another picture for the model."""
    return f"as-stored-1 or {_NAMES[recipe]}" if wire == "original" else _NAMES[recipe]


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
        size: Bytes of the picture as stored; of one that was in memory, those of its pixels.
        sha256: Hex digest of the picture as stored; of one that was in memory, as it is sent.
    """

    data: bytes
    mime: str
    width: int
    height: int
    size: int
    sha256: str


def prepare(
    data: bytes | Image.Image,
    wire: Wire = "jpeg",
    limits: Limits | None = None,
    recipe: Recipe = "default",
) -> Prepared:
    """The whole recipe for one picture.

    Args:
        data: The picture as stored, or one that Pillow holds, which is left as it is.
        wire: How it is encoded. `original` leaves pictures as they are stored, undecoded, where
            every server shows them to its model alike; the others get the recipe and jpeg.
        limits: What is refused.
        recipe: `default`, `exact` or `fast`. But for `exact`, a picture that is as the model takes
            it already is only decoded, to be sure, and travels as it is stored.

    Raises:
        ImageError: The bytes are empty, no picture, damaged, or over a limit.
    """
    limits = limits or Limits()
    if isinstance(data, Image.Image):
        return _prepare_held(data, wire, limits, recipe)
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    register()
    with _faults_in_words(data, limits), Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        _require_pixels(width, height, limits)
        sent, mime = _sent(picture, data, wire, recipe)
    return Prepared(
        data=sent,
        mime=mime,
        width=width,
        height=height,
        size=len(data),
        sha256=sha256(data).hexdigest(),
    )


def _prepare_held(picture: Image.Image, wire: Wire, limits: Limits, recipe: Recipe) -> Prepared:
    width, height = picture.size
    with _faults_in_words(b"", limits):
        _require_pixels(width, height, limits)
        with _LOCKS[id(picture) % len(_LOCKS)]:  # two threads cannot read one file
            picture.load()
        small = squash(to_rgb(picture)) if recipe == "exact" else _squashed(picture, picture.size)
        sent, mime = encode(small, wire)
    size, digest = width * height * len(picture.getbands()), sha256(sent).hexdigest()
    return Prepared(sent, mime, width=width, height=height, size=size, sha256=digest)


@contextlib.contextmanager
def _faults_in_words(data: bytes, limits: Limits) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        looks = f"not an image that can be read ({_what_it_looks_like(data)})"
        raise ImageError(why_unread(data) or looks) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_many_pixels("its size", limits)) from None
    except Exception as error:  # a decoder may raise anything at all on a damaged file
        raise ImageError(f"the image is damaged: {_in_words(error)}") from error


def _sent(picture: Image.Image, data: bytes, wire: Wire, recipe: Recipe) -> tuple[bytes, str]:
    if wire == "original" and (mime := as_readable(picture, data)) is not None:
        return data, mime
    if recipe == "exact":
        return encode(squash(to_rgb(picture)), wire)
    if (mime := as_taken(picture, data)) is not None:
        picture.load()
        return data, mime
    return encode(_small(picture, _LEAST[recipe]), wire)


def _small(picture: Image.Image, least: int) -> Image.Image:
    """As `squash(to_rgb(picture))`, by less work: turned after it was made small."""
    whole: tuple[float, float] = picture.size
    # Other formats either have no draft or take another picture for one, such as a thumbnail.
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        drafted = picture.draft(None, (least, least))
        whole = drafted[1][2:] if drafted is not None else picture.size
    picture.load()
    return _squashed(picture, whole)


def _squashed(picture: Image.Image, whole: tuple[float, float]) -> Image.Image:
    turn = turn_of(picture)
    small = squash_fast(in_rgb(picture), whole)
    return small if turn is None else small.transpose(turn)


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
