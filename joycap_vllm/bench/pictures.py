"""Pictures for a bench: a user's, again and again, or drawn ones of which no two are the same.

A picture that is sent twice comes from the server's cache the second time, which flatters. So each
drawn one has a number: some of its JPEG quantisation steps are one larger, by the number's bits,
which makes a new picture for the price of a copy.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from joycap_vllm.errors import UsageError
from joycap_vllm.sources import Source, SourceImage

DRAWN = 8
SIZES = ((1024, 1024), (1536, 1024), (1024, 1536), (1280, 960), (832, 1216))
_HELD = 1 << 29  # bytes of a user's pictures that may be in memory
_STEPS = range(1, 21)  # places in the zigzag: steps that survive a picture's being made smaller


class Shot(NamedTuple):
    """A picture to send: its key, and what reads its bytes."""

    key: str
    read: Callable[[], bytes]


class Pictures(Protocol):
    """An endless stream of pictures."""

    @property
    def repeated(self) -> bool:
        """Whether one has come twice."""

    @property
    def words(self) -> str:
        """What they are, for people."""

    def take(self) -> Shot:
        """The next."""


class DrawnPictures:
    """Drawn pictures, made as they are needed; the same in every run.

    Args:
        count: Different scenes; each comes again and again with another number.
    """

    def __init__(self, count: int = DRAWN) -> None:
        self.count = max(1, count)
        self._numbers = itertools.count()
        self._scenes = [draw(seed) for seed in range(self.count)]

    @property
    def repeated(self) -> bool:
        """Never."""
        return False

    @property
    def words(self) -> str:
        """What they are."""
        return "drawn pictures of 1.0 to 1.6 megapixels, no two the same"

    def take(self) -> Shot:
        """The next."""
        number = next(self._numbers)
        scene = self._scenes[number % self.count]
        return Shot(f"drawn-{number}", partial(numbered, scene, number // self.count))


class GivenPictures:
    """A user's pictures, from the first again after the last.

    Raises:
        UsageError: There are none.
    """

    def __init__(self, images: Sequence[SourceImage], most: int) -> None:
        if not images:
            raise UsageError("the inputs hold no picture")
        self._images = images
        self._most = most
        self._taken = 0

    @property
    def repeated(self) -> bool:
        """Whether the first came again."""
        return self._taken > len(self._images)

    @property
    def words(self) -> str:
        """What they are."""
        return f"{len(self._images)} given pictures"

    def take(self) -> Shot:
        """The next."""
        round_, at = divmod(self._taken, len(self._images))
        self._taken += 1
        image = self._images[at]
        return Shot(f"{image.key} {round_}", partial(image.read, self._most))


def given_pictures(source: Source, count: int, most: int) -> GivenPictures:
    """The first pictures of a source.

    Args:
        source: Where they are.
        count: Most pictures.
        most: Most bytes of one.

    Raises:
        UsageError: There are none.
    """
    images, held = [], 0
    for image in itertools.islice(source.images(), count):
        images.append(image)
        held += image.held
        if held > _HELD:
            break
    return GivenPictures(images, most)


def draw(seed: int) -> bytes:
    """A JPEG that is as hard to read as a photo: soft shapes, edges, and the grain of a sensor."""
    rng = random.Random(seed)
    width, height = SIZES[seed % len(SIZES)]
    bands = []
    for _ in range(3):
        band = Image.new("L", (width, height), rng.randrange(60, 190))
        for cells, share in ((4, 0.2), (16, 0.1), (64, 0.05)):
            clouds = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
            whole = clouds.resize((width, height), Image.Resampling.BICUBIC)
            band = Image.blend(band, whole, share)
        bands.append(band)
    picture = Image.merge("RGB", bands)
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(1, 5)):
        x, y, size = rng.randrange(width), rng.randrange(height), rng.randrange(100, 500)
        fill = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        pen.ellipse((x, y, x + size, y + size * rng.uniform(0.3, 1.5)), fill=fill)
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    grain = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    grain = grain.point([107 + value // 6 for value in range(256)])
    noisy = ImageChops.add(picture, Image.merge("RGB", (grain,) * 3), offset=-128)
    buffer = io.BytesIO()
    noisy.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def numbered(jpeg: bytes, number: int) -> bytes:
    """The JPEG with `number` written into its first quantisation table; 0 leaves it as it is."""
    at = jpeg.index(b"\xff\xdb") + 5  # behind the marker, the length, and the table's name
    changed = bytearray(jpeg)
    for bit, step in enumerate(_STEPS):
        changed[at + step] = min(255, changed[at + step] + (number >> bit & 1))
    return bytes(changed)
