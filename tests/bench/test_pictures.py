"""What a bench sends: no drawn picture twice, a user's as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from job.helping import make_pictures
from PIL import Image

from joycap_vllm.bench import DrawnPictures, given_pictures
from joycap_vllm.bench.pictures import draw, numbered
from joycap_vllm.errors import UsageError
from joycap_vllm.images import prepare
from joycap_vllm.sources import open_source


def test_no_two_drawn_pictures_are_the_same_to_a_server() -> None:
    pictures = DrawnPictures(2)
    shots = [pictures.take() for _ in range(40)]
    sent = {prepare(shot.read(), "jpeg").data for shot in shots}

    assert len(sent) == len({shot.key for shot in shots}) == 40
    assert not pictures.repeated


def test_each_bit_of_a_number_makes_another_picture_of_the_same_size() -> None:
    scene = draw(0)
    sent = {prepare(numbered(scene, 1 << bit), "bmp").data for bit in range(20)}
    sent.add(prepare(scene, "bmp").data)

    assert len(sent) == 21
    with Image.open(io.BytesIO(numbered(scene, (1 << 20) - 1))) as picture:
        picture.load()
        assert picture.size == (1024, 1024)


def test_drawn_pictures_are_the_same_in_every_run() -> None:
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_given_pictures_come_in_order_and_then_again_under_other_keys(tmp_path: Path) -> None:
    paths = sorted(make_pictures(tmp_path, 5))
    pictures = given_pictures(open_source([str(tmp_path)]), count=3, most=10**6)
    first = [pictures.take() for _ in range(3)]
    assert not pictures.repeated
    again = [pictures.take() for _ in range(3)]

    assert pictures.repeated
    assert [shot.read() for shot in first] == [shot.read() for shot in again]
    assert {shot.read() for shot in first} <= {path.read_bytes() for path in paths}
    assert len({shot.key for shot in first + again}) == 6, "so that seeds differ"


def test_an_input_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture"):
        given_pictures(open_source([str(tmp_path)]), count=3, most=10**6)
