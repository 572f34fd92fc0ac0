"""The report as a page: pictures, hostile text, odd names."""

from __future__ import annotations

import base64
import html
import io
import re
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm.errors import OutputError
from joycap_vllm.job import make_report, write_page
from joycap_vllm.job.page import text
from joycap_vllm.job.thumbnails import find_image, thumbnail
from joycap_vllm.sources import key_of

from .helping import color_of
from .journals import attempt, journal, looped, page_of, record

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> \' & \u202e'


def test_hostile_text_is_text_on_the_page(tmp_path: Path) -> None:
    rows = [
        looped(HOSTILE + str(n), 2, caption=HOSTILE, why=HOSTILE, prompt=HOSTILE, model=HOSTILE)
        for n in range(2)
    ]
    bad = [attempt(HOSTILE, endpoint=HOSTILE, finish=HOSTILE), attempt(error=HOSTILE)]
    rows.append(record("z", "failed", why=HOSTILE, attempts=bad, glitch=HOSTILE))
    rows.append(record("y", HOSTILE, attempts=bad))
    journal(tmp_path, *rows)
    page = page_of(tmp_path)

    assert page.open == []
    assert {"script", "iframe", "object", "link", "form"} & set(page.tags) == set()
    assert not [n for _, n, _ in page.attributes if n.startswith("on") or n in ("style", "href")]
    assert page.values("img", "src") == []
    assert page.text.count('<script>alert("x")</script>') >= 10
    assert "\u202e" not in page.source
    assert "\\u202e" in page.text


@given(st.text())
def test_no_text_becomes_markup(value: str) -> None:
    shown = text(value)

    assert not set('<>"') & set(shown)
    assert "'" not in shown
    if value.isprintable():
        assert html.unescape(shown) == value


def test_the_page_may_fetch_and_run_nothing_and_its_own_style_is_allowed(tmp_path: Path) -> None:
    journal(tmp_path, looped("a", 2))
    page = page_of(tmp_path)
    (policy,) = [v for v in page.values("meta", "content") if "default-src" in v]
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()

    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert not re.search(r"https?://(?!a/v1)", page.source)
    assert "prefers-color-scheme: dark" in style
    assert "width=device-width" in page.source


def test_pictures_are_small_jpegs_of_the_right_files(tmp_path: Path) -> None:
    for number, name in enumerate(["a.png", "sub/b [x].png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (900, 300), color_of(number * 50)).save(path)
    journal(tmp_path / ".joycap", looped("a.png", 3), looped("sub/b [x].png", 2), looped("c", 1))
    page = page_of(tmp_path)
    urls = page.values("img", "src")

    assert page.values("img", "alt") == ["a.png", "sub/b [x].png"]
    assert page.text.count("no picture") == 1
    for number, url in enumerate(urls):
        with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (192, 64))
            pixel = picture.convert("RGB").getpixel((90, 30))
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) < 6 for a, b in zip(pixel, color_of(number * 50), strict=True))


def test_an_image_with_several_bad_captions_stands_once(tmp_path: Path) -> None:
    journal(tmp_path, looped("a", 3), looped("a", 2, prompt="t"), looped("b", 1))
    page = page_of(tmp_path)

    assert (page.tags["article"], page.tags["blockquote"]) == (2, 3)


def test_as_many_pictures_as_asked_for_the_worst_of_them(tmp_path: Path) -> None:
    journal(tmp_path, *(looped(f"k{n}", n) for n in range(1, 30)))

    page = page_of(tmp_path, pictures=3)
    assert page.tags["article"] == 3
    assert "the worst 3 of 29" in page.text
    assert ["k29" in page.text, "k27" in page.text, "k26" in page.text] == [True, True, False]
    assert page_of(tmp_path, pictures=0).tags["article"] == 0


def test_the_page_tells_the_folder_that_its_pictures_come_from(tmp_path: Path) -> None:
    photos, job = tmp_path / "photos", tmp_path / "job"
    photos.mkdir()
    Image.new("RGB", (9, 9)).save(photos / "a.png")
    journal(job, looped("a.png", 2))
    (job / "job.json").write_bytes(orjson.dumps({"settings": {"root": str(photos)}}))
    page = page_of(job)

    assert page.tags["img"] == 1
    assert f"pictures from {photos}" in page.text


@pytest.mark.parametrize("root", ["{}/job/../photos", "photos"])
def test_a_root_that_leads_astray_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "a.png")
    journal(tmp_path / "job", looped("a.png", 2))
    settings = {"settings": {"root": root.format(tmp_path)}}
    (tmp_path / "job" / "job.json").write_bytes(orjson.dumps(settings))

    assert page_of(tmp_path / "job").tags["img"] == 0


def test_a_journal_shows_no_file_outside_its_job(tmp_path: Path) -> None:
    root = tmp_path / "job"
    root.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    Image.new("RGB", (9, 9)).save(root / "own.png")

    assert find_image("../secret.png", [root]) is None
    assert find_image(str(tmp_path / "secret.png"), [root]) is None
    assert find_image("a\0b", [root]) is None
    assert find_image("x" * 5000, [root]) is None
    assert find_image("own.png", [root]) == root / "own.png"


@pytest.mark.parametrize("name", [b"a\xff.png", b"plain \\x41.png", "ü\n.png".encode(), b"-x.png"])
def test_odd_file_names_are_found_by_their_keys(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / name.decode("utf-8", "surrogateescape")
    Image.new("RGB", (9, 9)).save(path)

    assert find_image(key_of(path, tmp_path), [tmp_path]) == path


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_picture_has_no_thumbnail(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)

    assert thumbnail(tmp_path / "a.jpg") is None
    assert thumbnail(tmp_path) is None


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    journal(tmp_path, looped("a", 1))
    with pytest.raises(OutputError, match=r"no/page\.html cannot be written"):
        write_page(make_report([tmp_path]), tmp_path / "no" / "page.html", title="Job")
