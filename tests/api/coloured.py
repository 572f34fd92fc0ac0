"""Pictures of one colour each, whose captions tell whose they are."""

from __future__ import annotations

import io

from PIL import Image

from fault_server import Color, name_of


def color_of(number: int) -> Color:
    return (number % 256, number // 256 % 256, 90)


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (12, 9), color_of(number))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def caption_of(number: int) -> str:
    return name_of(color_of(number))
