"""Sidecars: whose is whose, and what stands in them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs import (
    Dressing,
    SidecarOptions,
    Sidecars,
    Target,
    assign_stems,
    dress,
    one_line,
    undress,
    write_atomically,
)
from joycap_vllm.outputs.text import exchange, join

names = st.lists(
    st.from_regex(r"[ab.]{0,3}[ab]\.(jpg|png|txt\.jpg|jpg\.png)", fullmatch=True),
    unique=True,
    max_size=12,
)


def sidecars(root: Path, *prompts: str, **options: object) -> Sidecars:
    return Sidecars(SidecarOptions(prompts=prompts, root=root, **options))  # type: ignore[arg-type]


def only(made: Sidecars, folder: Path, name: str) -> Target:
    """The sidecars of the only image of a folder."""
    return made.target(made.place(folder), Path(name).stem)


def test_the_first_by_name_keeps_the_plain_stem() -> None:
    assert assign_stems(["a.png", "a.jpg", "b.png"], [".txt"]) == {
        "a.jpg": "a",
        "a.png": "a.png",
        "b.png": "b",
    }


@given(names, st.sampled_from([[".txt"], [".txt", ".b.txt"], [".caption", ".a.caption"]]))
def test_no_two_images_ever_share_a_sidecar(files: list[str], endings: list[str]) -> None:
    stems = assign_stems(files, endings)
    all_sidecars = [stem + ending for stem in stems.values() for ending in endings]

    assert len(all_sidecars) == len(set(all_sidecars))
    assert set(stems) == set(files)


@given(names)
def test_whose_sidecar_is_whose_does_not_hang_on_the_order(files: list[str]) -> None:
    assert assign_stems(files, [".txt"]) == assign_stems(files[::-1], [".txt"])


def test_several_types_have_a_file_each(tmp_path: Path) -> None:
    made = sidecars(tmp_path, "descriptive", "booru")
    made.write(only(made, tmp_path, "a.jpg"), {"descriptive": "A dog.", "booru": "dog, sofa"})

    assert (tmp_path / "a.txt").read_text() == "A dog."
    assert (tmp_path / "a.booru.txt").read_text() == "dog, sofa"


def test_dual_puts_tags_on_line_one_and_prose_on_line_two_when_both_are_there(
    tmp_path: Path,
) -> None:
    made = sidecars(tmp_path, "booru", "prose", together=True)
    target = only(made, tmp_path, "a.jpg")
    made.write(target, {"booru": "dog, sofa"})
    assert not (tmp_path / "a.txt").exists()
    made.write(target, {"booru": "dog, sofa", "prose": "A dog\nsleeps."})

    assert (tmp_path / "a.txt").read_text() == "dog, sofa\nA dog sleeps."


def test_an_out_folder_mirrors_the_tree(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    made = sidecars(root, "d", out=out, extension=".caption")
    made.write(only(made, root / "x" / "y", "a.jpg"), {"d": "A dog."})

    assert (out / "x" / "y" / "a.caption").read_text() == "A dog."


@pytest.mark.parametrize(
    ("existing", "tags", "expected"),
    [
        ("skip", False, "Old text"),
        ("overwrite", False, "A dog."),
        ("append", False, "Old text. A dog."),
        ("prepend", False, "A dog. Old text"),
        ("append", True, "Old text, A dog."),
    ],
)
def test_an_existing_sidecar_is_treated_as_asked_and_only_once(
    tmp_path: Path, existing: str, tags: bool, expected: str
) -> None:
    (tmp_path / "a.txt").write_text("Old text\n")
    before = time.time() + 0.01
    os.utime(tmp_path / "a.txt", (before - 60, before - 60))
    tagged = frozenset({"d"}) if tags else frozenset()
    made = sidecars(tmp_path, "d", existing=existing, tag_prompts=tagged)
    target = only(made, tmp_path, "a.jpg")
    made.write(target, {"d": "A dog."})
    for _ in range(3):
        made.write(target, {"d": "A dog."}, {"d": before - 30})

    assert (tmp_path / "a.txt").read_text().strip() == expected


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append", "prepend"])
def test_what_a_user_made_of_a_caption_stays(tmp_path: Path, existing: str) -> None:
    made = sidecars(tmp_path, "d", existing=existing)
    target = only(made, tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("A dog, mended by hand.")
    made.write(target, {"d": "A dog."}, {"d": time.time() - 30})

    assert (tmp_path / "a.txt").read_text() == "A dog, mended by hand."


def test_dual_lines_are_joined_line_by_line_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\nA cat.\nmore")
    made = sidecars(
        tmp_path, "t", "p", together=True, existing="append", tag_prompts=frozenset({"t"})
    )
    made.write(only(made, tmp_path, "a.jpg"), {"t": "dog", "p": "A dog."})

    assert (tmp_path / "a.txt").read_text() == "cat, dog\nA cat. A dog.\nmore"


def test_text_that_is_not_utf8_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    made = sidecars(tmp_path, "d", existing="append")
    with pytest.raises(OutputError, match="not UTF-8"):
        made.write(only(made, tmp_path, "a.jpg"), {"d": "A dog."})

    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9"


def test_a_linked_sidecar_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "real" / "b.txt")
    write_atomically(tmp_path / "a.txt", b"A dog.")

    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "real" / "b.txt").read_text() == "A dog."


def test_whoever_had_a_stem_keeps_it_when_pictures_are_added() -> None:
    stems = assign_stems(["a.gif", "a.jpg", "a.png"], [".txt"], {"a.png": "a", "a.jpg": "a.jpg"})

    assert stems == {"a.png": "a", "a.jpg": "a.jpg", "a.gif": "a.gif"}


def test_an_empty_sidecar_is_not_filled_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    made = sidecars(tmp_path, "d")
    target = only(made, tmp_path, "a.jpg")
    assert not target.filled("d")
    made.write(target, {"d": "A dog."})

    assert target.filled("d")


def test_nothing_empty_is_ever_written(tmp_path: Path) -> None:
    made = sidecars(tmp_path, "d")
    made.write(only(made, tmp_path, "a.jpg"), {"d": " \n "})

    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_a_caption_is_always_one_line(text: str) -> None:
    line = one_line(text)

    assert len(line.splitlines()) <= 1 or not set(line) & set("\n\r\v\f\x85\u2028\u2029")
    assert line == line.strip()
    assert not any(ord(c) < 32 and c != "\t" for c in line)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog.", "ohwx, A dog."),
        ("An OHWX dog.", "An OHWX dog."),
        ("An ohwxy dog.", "ohwx, An ohwxy dog."),
    ],
)
def test_the_trigger_is_put_first_only_where_it_is_missing(caption: str, expected: str) -> None:
    assert dress(caption, Dressing(trigger="ohwx")) == expected


def test_prefix_and_suffix_stand_around_the_caption() -> None:
    assert dress("a dog", Dressing(prefix="photo of ", suffix=", 4k")) == "photo of a dog, 4k"


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    path.chmod(mode)
    write_atomically(path, b"two")

    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"two", mode)


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", b"one")
    write_atomically(tmp_path / "a.txt", b"two")

    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.txt", b"two")]


def test_a_name_that_is_too_long_is_an_error_for_this_file_only(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / ("x" * 300), b"one")

    assert not caught.value.stops_all
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_all() -> None:
    assert OutputError("full", errno.ENOSPC).stops_all


words = st.text("ab .,\n", max_size=8)


@given(words, words, words, st.sampled_from(["", "ohwx", " a b "]))
def test_what_was_put_around_a_caption_can_be_taken_off(
    caption: str, prefix: str, suffix: str, trigger: str
) -> None:
    assume(not one_line(caption).startswith(f"{trigger.strip()},"))
    dressing = Dressing(prefix, suffix, trigger)

    assert undress(dress(caption, dressing), dressing) == one_line(caption)


lines = st.text(st.sampled_from("ab ,.!"), min_size=1, max_size=8).map(one_line)


@given(lines, lines, lines, st.booleans())
def test_a_joined_text_gives_way_to_another_as_if_it_had_never_been(
    own: str, old: str, new: str, tags: bool
) -> None:
    assume(own.strip(" ,") and old.strip(" ,") and new)
    after = exchange(join(own, old, tags=tags), old, new, tags=tags, first=False)
    before = exchange(join(old, own, tags=tags), old, new, tags=tags, first=True)

    assert after == join(own, new, tags=tags)
    assert before == join(new, own, tags=tags)


def test_a_text_that_only_ends_alike_is_not_exchanged() -> None:
    assert exchange("A bobcat", "cat", "dog", tags=False, first=False) is None
    assert exchange("category", "cat", "dog", tags=True, first=True) is None
    assert exchange("My words.", "", "dog", tags=False, first=False) is None
