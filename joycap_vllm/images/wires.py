"""How a picture travels: encoded anew, or as it is stored."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

from PIL import Image

from joycap_vllm.images.pixels import turn_of
from joycap_vllm.images.resize import SIZE

Wire = Literal["jpeg", "png", "png0", "bmp", "original"]

_OPTIONS: dict[str, dict[str, int]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {"compress_level": 1},
    "bmp": {},
}
# What OpenAI's own server reads, by Pillow's name, and how such a file ends.
_MIMES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
# What stands in a PNG that says how it lies, perhaps behind its pixels.
_TURNING = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_TAIL = 64  # bytes among which the end is, since some programs add a few


def encode(picture: Image.Image, wire: Wire) -> tuple[bytes, str]:
    """An RGB picture as it travels, and its MIME type; `original` has none, and takes jpeg."""
    if wire == "png0":
        return _stored_png(picture), "image/png"
    form = "jpeg" if wire == "original" else wire
    buffer = io.BytesIO()
    picture.save(buffer, form.upper(), **_OPTIONS[form])
    return buffer.getvalue(), f"image/{form}"


def as_taken(picture: Image.Image, data: bytes) -> str | None:
    """The MIME type of a picture that is what the recipe would make of it; None for any other.

    Args:
        picture: The picture, opened.
        data: Its bytes as stored.
    """
    same = picture.size == (SIZE, SIZE) and picture.mode == "RGB"
    # llama.cpp reads no WebP, nor does what is built on it.
    if not same or picture.format in ("MPO", "WEBP") or "icc_profile" in picture.info:
        return None
    return as_readable(picture, data)


def as_readable(picture: Image.Image, data: bytes) -> str | None:
    """The MIME type of a picture that any server shows to its model as it is; None for any other.

    That is a whole JPEG, PNG or WebP of 8 bits in RGB or gray that is upright, opaque and no
    animation: some servers do not turn pictures, put alpha on black, or refuse CMYK. It is told by
    the header and the end of the file, undecoded.
    """
    mime = _MIMES.get(picture.format or "")
    plain = picture.mode in ("RGB", "L") and not picture.has_transparency_data
    if mime is None or not plain or not _ends_well(mime, data):
        return None
    if mime == "image/png" and (data[24] != 8 or picture.info.get("default_image") is not None):
        return None
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        return None
    if mime == "image/png" and not any(word in data for word in _TURNING):
        return mime  # Pillow would decode it all to find out
    return mime if turn_of(picture) is None else None


def _ends_well(mime: str, data: bytes) -> bool:
    if mime == "image/jpeg":
        return b"\xff\xd9" in data[-_TAIL:]
    if mime == "image/png":
        return b"IEND" in data[-_TAIL:]
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _stored_png(picture: Image.Image) -> bytes:
    """A PNG that is not compressed: 20 times as fast to make as the fastest that Pillow makes."""
    width, height = picture.size
    # Each row begins with its filter's number, 0: a row one byte longer, moved by one.
    rows = b"\0" + picture.tobytes("raw", "RGB", 3 * width + 1)[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
