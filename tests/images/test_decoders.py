"""Formats that come by extras, encoded by their own libraries."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from joycap_vllm.errors import ImageError
from joycap_vllm.images import prepare, to_rgb
from joycap_vllm.images.decoders import register

FORMS = ["HEIF", "AVIF", "JXL"]


def encoded(form: str, size: tuple[int, int] = (96, 64), **options: object) -> bytes:
    """A picture whose left half is red and whose right half is blue."""
    register()
    picture = Image.new("RGB", size, "red")
    picture.paste("blue", (size[0] // 2, 0, *size))
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_read_whole(form: str) -> None:
    data = encoded(form)
    prepared = prepare(data)
    shown = to_rgb(Image.open(io.BytesIO(data)))

    assert (prepared.width, prepared.height, prepared.size) == (96, 64, len(data))
    left = ImageStat.Stat(shown.crop((0, 0, 40, 64))).mean
    right = ImageStat.Stat(shown.crop((56, 0, 96, 64))).mean
    assert left == pytest.approx([255, 0, 0], abs=12)
    assert right == pytest.approx([0, 0, 255], abs=12)


@pytest.mark.parametrize("form", FORMS)
def test_half_a_picture_is_none(form: str) -> None:
    data = encoded(form)

    with pytest.raises(ImageError, match=r"damaged|not an image"):
        prepare(data[: len(data) // 2])


def test_jpeg_xl_is_upright_as_it_is_decoded() -> None:
    plain, marked = encoded("JXL"), encoded("JXL", exif=turned(6))

    assert prepare(marked, "png").data == prepare(plain, "png").data


@pytest.mark.parametrize(("form", "extra"), [("HEIF", "heif"), ("JXL", "jxl")])
def test_a_missing_extra_is_named(tmp_path: Path, form: str, extra: str) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(encoded(form))
    script = f"""import sys
sys.modules.update(pillow_heif=None, pillow_jxl=None)
from pathlib import Path
from joycap_vllm.errors import ImageError
from joycap_vllm.images import prepare
try: prepare(Path({str(picture)!r}).read_bytes())
except ImageError as error: print(error)"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert f"joycap-vllm[{extra}]" in done.stdout
