"""The default and the fast recipe beside the exact one."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from images.drawing import decibels, encoded, line_art, photograph, turned
from joycap_vllm.errors import ImageError
from joycap_vllm.images import Limits, Recipe, Wire, prepare, recipe_name

SIDES = st.integers(380, 2000)


def made(data: bytes, recipe: Recipe = "default") -> Image.Image:
    return Image.open(io.BytesIO(prepare(data, "bmp", recipe=recipe).data))


@settings(max_examples=15, deadline=None)
@given(width=SIDES, height=SIDES, form=st.sampled_from(["JPEG", "PNG"]))
def test_the_default_is_within_50_db_of_exact(width: int, height: int, form: str) -> None:
    options = {"compress_level": 1} if form == "PNG" else {}
    data = encoded(photograph(width, height), form, **options)

    assert decibels(made(data), made(data, "exact")) >= 50


@pytest.mark.parametrize(
    "size", [(1001, 700), (1000, 1600), (1000, 1632), (400, 2400), (2400, 400)]
)
def test_line_art_is_no_worse_than_a_photograph(size: tuple[int, int]) -> None:
    data = encoded(line_art(*size), "PNG")

    assert decibels(made(data), made(data, "exact")) >= 50


@pytest.mark.parametrize("size", [(1537, 1537), (1543, 2311), (3079, 3085)])
def test_sizes_that_shrink_on_load_rounds_up_are_not_shifted(size: tuple[int, int]) -> None:
    data = encoded(photograph(*size))

    assert decibels(made(data), made(data, "exact")) >= 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photograph_is_turned_as_exif_says(orientation: int) -> None:
    data = encoded(photograph(1601, 1700), exif=turned(orientation))
    prepared = prepare(data)

    assert decibels(made(data), made(data, "exact")) >= 50
    assert decibels(made(data, "fast"), made(data, "exact")) >= 35
    assert (prepared.width, prepared.height) == (1601, 1700)


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "MPO", {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("RGB", "WEBP", {}),
    ],
)
def test_kinds_of_pictures_are_read_alike(mode: str, form: str, options: dict[str, object]) -> None:
    data = encoded(photograph(1600, 1540, mode), form, **options)

    assert decibels(made(data), made(data, "exact")) >= 50


def test_a_truncated_jpeg_fails_also_where_most_of_it_is_left_out() -> None:
    data = encoded(photograph(1600, 1540))

    for recipe in ("default", "fast", "exact"):
        with pytest.raises(ImageError, match=r"damaged.*truncated"):
            prepare(data[:-2000], recipe=recipe)


def test_the_pixel_limit_counts_what_is_stored() -> None:
    with pytest.raises(ImageError, match="1600 x 1540"):
        prepare(encoded(photograph(1600, 1540)), limits=Limits(pixels=1600 * 1539))


def test_the_thinnest_picture_is_squashed_like_any_other() -> None:
    data = encoded(Image.new("RGB", (140_000, 384), "red"), "PNG")

    assert made(data).getcolors() == [(384 * 384, (255, 0, 0))]


def test_each_way_to_make_a_picture_has_a_name_of_its_own() -> None:
    recipes: tuple[Recipe, ...] = ("default", "exact", "fast")
    stored: tuple[Wire | None, ...] = (None, "original")
    names = {recipe_name(recipe, wire) for recipe in recipes for wire in stored}

    assert len(names) == 6
    assert recipe_name("default", "png") == recipe_name("default", "bmp") == recipe_name("default")


def run(script: str) -> str:
    command = [sys.executable, "-c", script, *sys.path]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout


BEGIN = """import sys
sys.path[:] = sys.argv[1:]
from images.drawing import encoded, photograph
from joycap_vllm.images import prepare
data = encoded(photograph(1100, 1001))
"""


def test_without_libvips_pillow_squashes_as_well() -> None:
    out = run(
        "import sys; sys.modules['pyvips'] = None\n" + BEGIN + "print(prepare(data, 'png').data == "
        "prepare(data, 'png', recipe='exact').data)"
    )

    assert out.strip() == "True"


def test_a_process_forked_while_pictures_are_made_makes_its_own() -> None:
    out = run(
        BEGIN
        + """import os, signal, threading, warnings
warnings.simplefilter("ignore")
def work():
    while True: prepare(data)
prepare(data)
for _ in range(3): threading.Thread(target=work, daemon=True).start()
ends = []
for _ in range(4):
    child = os.fork()
    if not child:
        signal.alarm(5)
        os._exit(0 if prepare(data).data else 1)
    ends.append(os.waitpid(child, 0)[1])
print(ends, flush=True)
os._exit(0)"""
    )

    assert out.strip() == "[0, 0, 0, 0]"


def test_nothing_is_said_about_pictures_of_any_kind() -> None:
    script = BEGIN + "prepare(data); prepare(encoded(photograph(900, 800, 'CMYK')))"
    command = [sys.executable, "-W", "error", "-c", script, *sys.path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50)

    assert (done.stdout, done.stderr) == ("", "")
