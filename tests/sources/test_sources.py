"""Where images come from: folders, files, globs, lists."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.sources import FilePlace, SourceImage, key_of, open_source, path_of
from joycap_vllm.sources.image import BytesPlace

AWKWARD = ["with space.jpg", "ünï.png", "-dash.jpg", "new\nline.webp", "UPPER.JPG", "quote'\".png"]


def keys(*inputs: str | Path) -> list[str]:
    source = open_source([str(i) for i in inputs])
    return [image.key for image in source.images()]


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_is_walked_in_a_stable_order(tmp_path: Path) -> None:
    make(tmp_path, "b.jpg", "a.png", "sub/c.webp", "sub/deep/d.gif", "note.md", "a.txt")

    assert keys(tmp_path) == ["a.png", "b.jpg", "sub/c.webp", "sub/deep/d.gif"]
    assert keys(tmp_path) == keys(tmp_path)


def test_awkward_names_are_taken_as_they_are(tmp_path: Path) -> None:
    make(tmp_path, *AWKWARD)

    assert sorted(keys(tmp_path)) == sorted(AWKWARD)


def test_a_name_that_is_no_unicode_gets_a_key_and_can_be_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg"))
    path.write_bytes(b"data")
    source = open_source([str(tmp_path)])
    (image,) = source.images()

    assert image.key == "bad\\xff.jpg"
    assert image.read() == b"data"


def test_dot_folders_and_masks_are_left_out(tmp_path: Path) -> None:
    make(
        tmp_path, "a.jpg", ".hidden.jpg", ".git/b.jpg", "_controls/c.jpg", "a-masklabel.png",
        "a-condlabel.png",
    )  # fmt: skip

    assert keys(tmp_path) == ["a.jpg"]


def test_links_in_a_circle_are_cut(tmp_path: Path) -> None:
    make(tmp_path, "sub/a.jpg")
    (tmp_path / "sub" / "round").symlink_to(tmp_path, target_is_directory=True)

    assert keys(tmp_path) == ["sub/a.jpg"]


def test_a_tree_deeper_than_python_recurses_is_walked(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 1200)
    subprocess.run(["mkdir", "-p", deep], check=True)
    try:
        make(deep, "a.jpg")
        source = open_source([str(tmp_path)])

        assert [image.key for image in source.images()] == ["d/" * 1200 + "a.jpg"]
        assert source.count() == 1
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_single_files_are_relative_to_their_folder(tmp_path: Path) -> None:
    make(tmp_path, "x/a.jpg", "y/b.jpg")

    assert keys(tmp_path / "x" / "a.jpg") == ["a.jpg"]
    assert keys(tmp_path / "x", tmp_path / "y" / "b.jpg") == ["y/b.jpg", "x/a.jpg"]


def test_an_input_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "x/a.jpg")

    assert keys(tmp_path, tmp_path / "x", tmp_path / "x" / "a.jpg") == ["x/a.jpg"]


def test_a_glob_takes_what_matches(tmp_path: Path) -> None:
    make(tmp_path, "a1.jpg", "a2.png", "b.jpg", "sub/a3.jpg", "a.txt")

    assert keys(tmp_path / "a*") == ["a1.jpg", "a2.png"]
    assert keys(tmp_path / "**" / "*.jpg") == ["a1.jpg", "b.jpg", "sub/a3.jpg"]


def test_a_list_is_relative_to_its_own_folder(tmp_path: Path) -> None:
    make(tmp_path, "sub/a.jpg", "b.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text("sub/a.jpg\n# a comment\n\nb.jpg\n", encoding="utf-8")

    assert sorted(keys(listed)) == ["b.jpg", "sub/a.jpg"]


def test_the_sidecars_that_a_shell_glob_names_too_are_no_lists(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.png", "notes.md")
    (tmp_path / "a.txt").write_text("A dog.")
    (tmp_path / "b.png.txt").write_text("A cat.")

    assert keys(*sorted(tmp_path.iterdir())) == ["a.jpg", "b.png"]


def test_names_that_look_alike_have_different_keys(tmp_path: Path) -> None:
    make(tmp_path, "\\xff.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"x")

    assert len(set(keys(tmp_path))) == 2


def test_a_folder_that_cannot_be_read_is_noted_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.jpg", "closed/b.jpg", "open/c.jpg")
    really = os.scandir

    def guarded(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = open_source([str(tmp_path)])
    found = [image.key for image in source.images()]

    assert found == ["a.jpg", "open/c.jpg"]
    assert source.unreadable == {tmp_path / "closed": "Permission denied"}


def test_what_is_no_regular_file_fails_with_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    source = open_source([str(tmp_path)])
    loop, pipe = source.images()

    with pytest.raises(ImageError, match="no regular file"):
        pipe.read()
    with pytest.raises(ImageError, match="Too many levels"):
        loop.read()


@pytest.mark.parametrize("missing", ["nothing-here", "*.nothing"])
def test_what_is_not_there_is_a_usage_error(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UsageError, match="nothing"):
        open_source([str(tmp_path / missing)])


def test_a_file_that_vanished_fails_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    (image,) = open_source([str(tmp_path)]).images()
    (tmp_path / "a.jpg").unlink()

    with pytest.raises(ImageError, match="No such file"):
        image.read()


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    (image,) = open_source([str(tmp_path)]).images()
    with (tmp_path / "a.jpg").open("r+b") as file:
        file.truncate(3_000_000)

    with pytest.raises(ImageError, match="3 MB"):
        image.read(most=2_000_000)


parts = [b"a", b"/", b" ", "ü".encode(), rb"\x8", rb"\xzz", rb"\x80", rb"\\x80", b"\x80", b"\xff"]
names = st.lists(st.sampled_from(parts), min_size=1, max_size=6).map(lambda n: b"".join(n) + b"b")


@given(names)
def test_a_key_leads_back_to_its_file(name: bytes) -> None:
    path = Path("/in", os.fsdecode(name.lstrip(b"/")))

    assert path_of(key_of(path, Path("/in")), Path("/in")) == path


def test_what_the_kernel_shows_as_files_is_never_read() -> None:
    for name in ("/proc/self/environ", "/proc/self/mem"):
        assert FilePlace(name).read(100) == b""


def test_an_image_gives_up_its_bytes_and_keeps_its_name(tmp_path: Path) -> None:
    held = SourceImage("a", BytesPlace(b"123"), {"n": 1})
    filed = SourceImage("b", FilePlace(str(tmp_path / "b.png")))

    assert (held.held, held.without_bytes().held) == (3, 0)
    assert held.without_bytes()[::2] == ("a", {"n": 1})
    assert filed.without_bytes() is filed


@pytest.mark.parametrize("told", [1, 999, 1000, 1001, 5000])
def test_a_file_that_grows_or_shrinks_after_it_was_looked_at_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    path, look = tmp_path / "a.png", os.stat
    path.write_bytes(bytes(range(250)) * 4)

    def earlier(name: str) -> os.stat_result:
        return os.stat_result((*look(name)[:6], told, *look(name)[7:]))

    monkeypatch.setattr(os, "stat", earlier)

    assert FilePlace(str(path)).read(10_000) == bytes(range(250)) * 4
    if told < 1000:
        with pytest.raises(ImageError, match="over the limit"):
            FilePlace(str(path)).read(999)
