"""Small pictures for a page: found by key, made small enough to be carried in it."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pybase64
from PIL import Image

from joycap_vllm.errors import ImageError
from joycap_vllm.images import to_rgb

_SIDE = 192  # pixels
_MOST_PIXELS = 178_956_970
_MOST_BYTES = 1 << 28


def thumbnails(places: Iterable[Path | None]) -> list[str | None]:
    """A data URL for each picture file; None for what is not there or no picture."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        warnings.simplefilter("ignore")  # of decoders, about pictures that are known to be bad
        return list(pool.map(lambda place: place and thumbnail(place), places))


def thumbnail(path: Path) -> str | None:
    """A JPEG of at most 192 pixels a side as a data URL; None where that cannot be made."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        with path.open("rb") as file:
            small = small_jpeg(file, _SIDE)
    except Exception:  # a decoder may raise anything at all on a damaged file
        return None
    return "data:image/jpeg;base64," + pybase64.b64encode(small).decode()


def small_jpeg(file: BinaryIO, side: int) -> bytes:
    """A JPEG of at most `side` pixels a side of a picture file.

    Raises:
        ImageError: The picture has too many pixels.
        Exception: Whatever a decoder raises on a damaged file.
    """
    with Image.open(file) as picture:
        if picture.width * picture.height > _MOST_PIXELS:
            raise ImageError(f"it has {picture.width * picture.height / 1e6:.0f} million pixels")
        picture.draft("RGB", (2 * side, 2 * side))
        small = to_rgb(picture)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def find_image(key: str, roots: Sequence[Path]) -> Path | None:
    """The file that a key names, within one of these folders only."""
    for name in dict.fromkeys([key, _with_raw_bytes(key)]):
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            continue
        for root in roots:
            path = root / name
            try:
                if path.is_file():
                    return path
            except OSError:
                continue  # such as a name that is too long here
    return None


def _with_raw_bytes(key: str) -> str:
    """The file name behind a key: `\\xNN` is a byte that was no UTF-8."""
    plain = re.sub(r"(?<!\\)\\x([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), key)
    return re.sub(r"\\\\(?=x[89a-f][0-9a-f])", r"\\", plain)
