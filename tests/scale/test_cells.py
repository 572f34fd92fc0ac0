"""What a dataset's cells hold or name."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from joycap_vllm.errors import ImageError
from joycap_vllm.scale.cells import Columns, images_of
from joycap_vllm.sources import NO_COLUMNS, FilePlace, WebRules

MOST = 1 << 20
PATHS = Columns(folder="/data/")
PICTURES = Columns(bytes="image")


def images(cells: list[Any], columns: Columns, **others: list[Any]) -> list[Any]:
    table = pa.table({columns.picture: cells, **others})
    return images_of(table, columns, rows=bool(others))


def test_paths_are_relative_to_where_it_is_called_and_urls_are_guarded() -> None:
    found = images(["a b.png", "/abs.png", "http://u:p@h/x.png", "odd://x"], PATHS)

    assert [image.key for image in found] == ["a b.png", "/abs.png", "http://h/x.png", "odd://x"]
    assert [image.place for image in found[:2]] == [
        FilePlace("/data/a b.png"), FilePlace("/abs.png"),
    ]  # fmt: skip
    assert found[2].place.rules == WebRules()
    with pytest.raises(ImageError, match="may not name odd://"):
        found[3].read(MOST)
    assert all(image.columns is NO_COLUMNS for image in found)


def test_bytes_have_their_digest_for_a_key_and_columns_go_along() -> None:
    [first, second, empty] = images([b"one", b"two", None], PICTURES, animal=["cat", "dog", "eel"])

    assert first.read(MOST) == b"one"
    assert first.key != second.key
    assert (first.columns, second.columns) == ({"animal": "cat"}, {"animal": "dog"})
    with pytest.raises(ImageError, match="'image' is empty"):
        empty.read(MOST)


def test_pictures_as_hugging_face_keeps_them_are_read() -> None:
    cells = [{"bytes": b"data", "path": "x.png"}, {"bytes": None, "path": "/y.png"}]
    [inside, outside] = images(cells, PICTURES)

    assert (inside.key, inside.read(MOST)) == ("x.png", b"data")
    assert outside.place == FilePlace("/y.png")


def test_keys_of_a_column_are_taken_as_text() -> None:
    columns = Columns(bytes="image", key="id")
    [one, two, three] = images([b"a", b"b", b"c"], columns, id=[7, 8, None])

    assert (one.key, two.key) == ("7", "8")
    with pytest.raises(ImageError, match="is no key"):
        three.read(MOST)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 3), (6, 4, 4)])
def test_pixels_lose_nothing(shape: tuple[int, ...]) -> None:
    numpy = pytest.importorskip("numpy")
    from joycap_vllm.scale.cells import _found

    array = numpy.random.default_rng(1).integers(0, 256, shape, dtype="uint8")
    _, place = _found(array, PICTURES)

    read = numpy.asarray(Image.open(io.BytesIO(place.read(MOST))))
    assert (read.reshape(shape) == array).all()


def test_what_is_no_picture_says_what_it_is() -> None:
    numpy = pytest.importorskip("numpy")
    from joycap_vllm.scale.cells import _found

    for cell in (numpy.zeros((4, 4, 3), "float32"), numpy.zeros((4, 4, 7), "uint8"), 17):
        _, place = _found(cell, PICTURES)
        with pytest.raises(ImageError, match="and no path, URL, bytes or 8-bit pixels"):
            place.read(MOST)
