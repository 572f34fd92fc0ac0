"""Which files a caller may name: those below the roots, whatever links and races there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm import Captioner
from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.roots import existing_roots, find_file, read_placed

ANY_TEXT = st.text(st.characters() | st.just("\udcff"), max_size=4)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a file in a folder, and a secret beside the root."""
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.png").write_bytes(b"inside")
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root-2" / "secret.png").write_bytes(b"secret")
    return root


def read(path: str, *roots: Path) -> bytes | None:
    placed = find_file(path, roots)
    return None if placed is None else read_placed(placed, 100)


@pytest.mark.parametrize("path", ["in/a.png", "./in/../in/a.png", "in//a.png"])
def test_a_file_below_a_root_is_read_by_its_absolute_or_relative_path(
    tree: Path, path: str
) -> None:
    assert read(f"{tree}/{path}", tree) == b"inside"
    assert read(path, tree) == b"inside"


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "in",
        "in/",
        "in/a.png/b",
        "in/missing.png",
        "../root-2/secret.png",
        "in/../../root-2/secret.png",
        "/etc/passwd",
        "//etc/passwd",
        "~/a.png",
        "file:///etc/passwd",
        "in/a.png\0",
        "\ud800",
        "a" * 5000,
        "a/" * 100_000,
        "n" * 300,
    ],
)
def test_nothing_else_is_found(tree: Path, path: str) -> None:
    assert find_file(path, (tree,)) is None
    assert find_file(f"{tree}/{path}", (tree,)) is None


def test_without_roots_nothing_is_found(tree: Path) -> None:
    assert find_file(f"{tree}/in/a.png", ()) is None


def test_links_lead_to_other_roots_but_never_out(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "root-2"
    (tree / "file.png").symlink_to(outside / "secret.png")
    (tree / "folder").symlink_to(outside)
    (tree / "near.png").symlink_to("in/a.png")
    (tree / "loop.png").symlink_to("loop.png")

    for path in ("file.png", "folder/secret.png", "loop.png"):
        assert find_file(f"{tree}/{path}", (tree,)) is None
    assert read(f"{tree}/near.png", tree) == b"inside"
    assert read(f"{tree}/folder/secret.png", tree, outside) == b"secret"


def test_a_root_may_itself_be_a_link(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree)

    assert read(f"{link}/in/a.png", link) == b"inside"
    assert read(f"{tree}/in/a.png", link) == b"inside"


def test_what_is_exchanged_for_a_link_after_it_was_found_is_not_read(
    tree: Path, tmp_path: Path
) -> None:
    placed = find_file("in/a.png", (tree,))
    assert placed is not None
    (tree / "in" / "a.png").unlink()
    (tree / "in" / "a.png").symlink_to(tmp_path / "root-2" / "secret.png")
    with pytest.raises(ImageError):
        read_placed(placed, 100)

    (tree / "in" / "a.png").unlink()
    (tree / "in").rmdir()
    (tmp_path / "root-2" / "secret.png").rename(tmp_path / "root-2" / "a.png")
    (tree / "in").symlink_to(tmp_path / "root-2")
    with pytest.raises(ImageError):
        read_placed(placed, 100)


def test_pipes_and_folders_are_refused_without_waiting(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    placed = find_file("in/a.png", (tree,))
    assert placed is not None
    (tree / "in" / "a.png").unlink()
    os.mkfifo(tree / "in" / "a.png")

    assert find_file("pipe.png", (tree,)) is None
    with pytest.raises(ImageError, match="no regular file"):
        read_placed(placed, 100)


def test_devices_are_no_files(tree: Path) -> None:
    assert find_file("/dev/zero", (Path("/dev"),)) is None
    assert find_file("/dev/stdin", (Path("/dev"),)) is None


def test_a_file_over_the_limit_is_not_read(tree: Path) -> None:
    with (tree / "large.png").open("wb") as file:
        file.truncate(10**9)
    placed = find_file("large.png", (tree,))
    assert placed is not None

    with pytest.raises(ImageError, match="over the limit"):
        read_placed(placed, 10**6)


def test_odd_names_are_names(tree: Path) -> None:
    for name in ("- a\nb.png", "ü 猫.png", "..a.png", "a..png", " .png"):
        (tree / name).write_bytes(name.encode())

        assert read(f"{tree}/{name}", tree) == name.encode()


def test_a_root_must_be_a_folder(tree: Path) -> None:
    assert existing_roots([tree, tree]) == (tree,)
    for wrong in (tree / "in" / "a.png", tree / "missing"):
        with pytest.raises(UsageError, match=r"--root .* is no folder"):
            existing_roots([wrong])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "", "in", "~", "etc", "root-2"]) | ANY_TEXT, max_size=8)
)
def test_no_path_finds_what_is_not_below_the_root(parts: list[str]) -> None:
    root = Path(__file__).parent
    for path in ("/".join(parts), f"{root}/" + "/".join(parts), "/" + "/".join(parts)):
        placed = find_file(path, (root,))
        assert placed is None or (placed.root == str(root) and ".." not in placed.steps)


async def test_outside_and_missing_look_alike_to_a_caller(
    captioner: Captioner, serve: Any, tree: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "root-2" / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (tree / "link.png").symlink_to(secret)
    context = Context(captioner, roots=(tree,), ai_toolkit=True)
    paths = [str(secret), f"{tree}/link.png", f"{tree}/missing.png", "/etc/passwd", "/no/such"]

    async with serve(make_app(context)) as url, httpx2.AsyncClient(base_url=url) as client:
        single = [await client.post("/caption", json={"image_path": path}) for path in paths]
        batch = await client.post("/batch_caption", json={"image_paths": paths})

    assert [reply.status_code for reply in single] == [404] * 5
    assert [reply.json()["error"] for reply in single] == [
        f"Image file not found: {path}" for path in paths
    ]
    assert len({reply.json()["reason"] for reply in single}) == 1
    rows = [{**row, "image_path": ""} for row in batch.json()["results"]]
    assert all(row == rows[0] for row in rows)
    assert rows[0]["error"] == "File not found"
