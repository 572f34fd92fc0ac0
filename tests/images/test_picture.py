from __future__ import annotations

import dataclasses

import pytest

from joycap_vllm.errors import ImageError
from joycap_vllm.images import Picture, Prepared

LARGE = Prepared(b"\x07" * 442_422, "image/bmp", 1024, 768, 350_000, "ab" * 32)


class Maker:
    """Prepares a picture as often as it is asked to."""

    def __init__(self, made: Prepared) -> None:
        self.made = made
        self.times = 0

    async def __call__(self) -> Prepared:
        self.times += 1
        return self.made


@pytest.mark.parametrize("sends", [1, 3])
async def test_a_picture_is_let_go_once_it_has_gone_out_and_is_made_again_for_a_retry(
    sends: int,
) -> None:
    maker = Maker(LARGE)
    picture = Picture(LARGE, sends=sends, again=maker)
    for _ in range(sends):
        assert await picture.data() == LARGE.data
        assert maker.times == 0
        picture.sent()

    assert await picture.data() == LARGE.data
    assert maker.times == 1
    assert picture.size == len(LARGE.data)
    assert picture.facts == dataclasses.replace(LARGE, data=b"")


async def test_a_picture_that_cannot_be_had_again_stays() -> None:
    picture = Picture(LARGE)
    picture.sent()
    picture.sent()

    assert await picture.data() == LARGE.data


async def test_a_small_picture_is_not_made_twice() -> None:
    small, maker = dataclasses.replace(LARGE, data=b"\x07" * 60_000), Maker(LARGE)
    picture = Picture(small, again=maker)
    picture.sent()

    assert await picture.data() == small.data
    assert maker.times == 0


async def test_another_picture_in_its_place_is_not_sent() -> None:
    maker = Maker(dataclasses.replace(LARGE, sha256="cd" * 32))
    picture = Picture(LARGE, again=maker)
    picture.sent()

    with pytest.raises(ImageError, match="changed"):
        await picture.data()
