"""Pictures that are like photographs, and how far two pictures are apart."""

from __future__ import annotations

import io
import math
import random
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageStat


@lru_cache(maxsize=8)
def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Soft shapes with edges a pixel or two wide, light that changes slowly, and a little grain."""
    rng = random.Random(width * 10_007 + height)
    picture = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = rng.randrange(width), rng.randrange(height)
        across, down = rng.randrange(8, width // 3 + 9), rng.randrange(8, height // 3 + 9)
        color = tuple(rng.randrange(20, 236) for _ in range(3))
        draw.ellipse((x, y, x + across, y + down), fill=color)
    grain = Image.effect_noise((width, height), 8).convert("RGB")
    soft = picture.filter(ImageFilter.GaussianBlur(max(1.2, min(width, height) / 500)))
    return Image.blend(soft, grain, 0.1).convert(mode)


def line_art(width: int, height: int) -> Image.Image:
    """Hard black lines on white, which overshoot most where they are made small."""
    rng = random.Random(width)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(300):
        ends = [(rng.randrange(width), rng.randrange(height)) for _ in range(2)]
        draw.line(ends, fill="black", width=3)
    return picture


def encoded(picture: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 92} | options))
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """EXIF that says how a picture lies."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def decibels(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio; infinite for equal pictures."""
    assert one.size == other.size
    stat = ImageStat.Stat(ImageChops.difference(one, other))
    mean = sum(stat.sum2) / sum(stat.count)
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
