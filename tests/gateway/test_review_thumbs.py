"""Small pictures: made once, kept, and never more at once than there are hands."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image

from joycap_vllm.errors import ImageError
from joycap_vllm.gateway.review.files import Inside
from joycap_vllm.gateway.review.thumbs import Thumbs, version_of

from .reviewing import picture


async def test_a_picture_that_many_ask_for_at_once_is_made_once(tmp_path: Path) -> None:
    path, inside = picture(tmp_path / "a.png"), Inside([tmp_path])
    thumbs = Thumbs(tmp_path / "cache", workers=1)
    version = version_of(inside, path)
    many = await asyncio.gather(*(thumbs.get(inside, path, version, 32) for _ in range(20)))

    assert len(set(many)) == 1
    assert thumbs.made == 1
    with Image.open(io.BytesIO(many[0])) as small:
        assert small.size == (32, 24)
    again = await Thumbs(tmp_path / "cache").get(inside, path, version, 32)
    assert again == many[0]


async def test_those_who_leave_while_they_wait_cost_nothing(tmp_path: Path) -> None:
    inside = Inside([tmp_path])
    paths = [picture(tmp_path / f"{number}.png") for number in range(30)]
    thumbs = Thumbs(tmp_path / "cache", workers=1)
    asked = [
        asyncio.create_task(thumbs.get(inside, path, version_of(inside, path), 32))
        for path in paths
    ]
    await asked[0]
    for task in asked[1:]:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    last = await thumbs.get(inside, paths[-1], version_of(inside, paths[-1]), 32)

    assert last.startswith(b"\xff\xd8")
    assert thumbs.made < 10


async def test_why_a_picture_cannot_be_shown_is_found_out_once(tmp_path: Path) -> None:
    path, inside = tmp_path / "a.png", Inside([tmp_path])
    path.write_bytes(b"GIF89a and then nothing")
    thumbs = Thumbs(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError):
            await thumbs.get(inside, path, version_of(inside, path), 32)
    assert not list((tmp_path / "cache").rglob("*.jpg"))


async def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    path, inside = picture(tmp_path / "a.png"), Inside([tmp_path])
    (tmp_path / "cache").write_text("a file is in its place")
    thumbs = Thumbs(tmp_path / "cache")

    assert await thumbs.get(inside, path, version_of(inside, path), 32)
