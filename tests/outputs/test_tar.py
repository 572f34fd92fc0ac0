"""WebDataset shards, read back by webdataset and datasets."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs import (
    NO_CAPTION,
    CaptionedImage,
    Shards,
    mirror_shard,
    sample_name,
    tar,
)

from .exports import TEXTS, image, samples

MEMBER = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
Files = list[tuple[str, bytes]]


def key_of(name: str) -> tuple[str, str] | None:
    found = MEMBER.fullmatch(name)
    return None if found is None else (f"000.tar/{found[1]}", found[2])


def shard_of(files: Files, *others: tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=buffer) as out:
        for number, (name, data) in enumerate(files):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname, info.mode = len(data), 1e9 + number, "me", 0o600
            out.addfile(info, io.BytesIO(data))
        for info in others:
            out.addfile(info)
    buffer.seek(0)
    return buffer


def mirrored(
    files: Files,
    captions: dict[str, dict[str, str]],
    out: Path,
    prompts: tuple[str, ...] = ("prose",),
) -> tuple[Files, dict[str, int]]:
    def captioned(key: str) -> CaptionedImage | None:
        found = captions.get(key.removeprefix("000.tar/"))
        return None if found is None else image(key, found)

    counts = mirror_shard(shard_of(files), out, key_of, captioned, prompts)
    return members(out), dict(counts)


def members(path: Path) -> Files:
    with tarfile.open(path) as found:
        return [(m.name, (found.extractfile(m) or io.BytesIO()).read()) for m in found]


def test_a_shard_is_copied_with_a_caption_beside_each_image(tmp_path: Path) -> None:
    files = [(f"a/{n}.jpg", bytes([n]) * n) for n in range(len(TEXTS))]
    captions = {f"a/{n}": {"prose": text} for n, text in enumerate(TEXTS)}
    _, counts = mirrored(files, captions, tmp_path / "000.tar")
    found = samples(tmp_path / "000.tar")

    assert counts == {"": len(TEXTS)}
    assert [s["__key__"] for s in found] == list(captions)
    assert [s["jpg"] for s in found] == [data for _, data in files]
    assert [s["txt"].decode() for s in found] == list(TEXTS)
    assert json.loads(found[0]["json"])["joycap"]["caption"] == TEXTS[0]


def test_every_prompt_has_a_file_of_its_own(tmp_path: Path) -> None:
    captions = {"a": {"prose": "A dog.", "booru": "dog"}}
    mirrored([("a.jpg", b"x")], captions, tmp_path / "0.tar", ("prose", "booru"))
    (sample,) = samples(tmp_path / "0.tar")

    assert (sample["txt"], sample["booru.txt"]) == (b"A dog.", b"dog")


def test_samples_without_all_their_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    files = [("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"2"), ("c.jpg", b"3")]
    captions = {"a": {"prose": "A."}, "b": {"prose": "B.", "booru": "b"}}
    _, counts = mirrored(files, captions, tmp_path / "0.tar", ("prose", "booru"))

    assert counts == {NO_CAPTION: 2, "": 1}
    assert [sample["__key__"] for sample in samples(tmp_path / "0.tar")] == ["b"]


def test_what_a_sample_tells_of_itself_stays(tmp_path: Path) -> None:
    files = [("a.json", b'{"url": "u"}'), ("a.txt", b"old"), ("a.jpg", b"x"), ("README", b"?")]
    found, _ = mirrored(files, {"a": {"prose": "New."}}, tmp_path / "0.tar")
    about = json.loads(dict(found)["a.json"])

    assert [name for name, _ in found] == ["a.jpg", "a.txt", "a.json", "README"]
    assert dict(found)["a.txt"] == b"New."
    assert (about["url"], about["joycap"]["replaced"]) == ("u", {"txt": "old"})


@pytest.mark.parametrize("json_file", [b"[1]", b"{broken", b""])
def test_a_json_that_is_no_object_is_left_as_it_is(tmp_path: Path, json_file: bytes) -> None:
    files = [("a.json", json_file), ("a.jpg", b"x")]
    found, _ = mirrored(files, {"a": {"prose": "New."}}, tmp_path / "0.tar")

    assert dict(found)["a.json"] == json_file
    assert "joycap" in json.loads(dict(found)["a.joycap.json"])


def test_captions_of_an_earlier_export_give_way(tmp_path: Path) -> None:
    first, _ = mirrored([("a.jpg", b"x")], {"a": {"prose": "Old."}}, tmp_path / "0.tar")
    second, _ = mirrored(first, {"a": {"prose": "New."}}, tmp_path / "1.tar")

    assert dict(second)["a.txt"] == b"New."
    assert json.loads(dict(second)["a.json"])["joycap"]["caption"] == "New."


@pytest.mark.parametrize("name", ["000.tar", "000.tar.gz"])
def test_the_same_captions_make_the_same_bytes(tmp_path: Path, name: str) -> None:
    files, captions = [("a.jpg", b"x"), ("b.jpg", b"y")], {"a": {"prose": "A."}}
    found = []
    for folder in ("one", "two"):
        mirrored(files, captions, tmp_path / folder / name)
        found.append((tmp_path / folder / name).read_bytes())

    assert found[0] == found[1]
    if name.endswith("gz"):
        assert (found[0][4:8], found[0][3]) == (bytes(4), 0)  # no time, no name
        found[0] = gzip.decompress(found[0])
    with tarfile.open(fileobj=io.BytesIO(found[0])) as opened:
        infos = opened.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in infos} == {(0, 0, 0, "", 0o644)}


def test_nothing_is_unpacked_and_no_link_is_copied(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.lnk")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    shard = shard_of([("../../evil.jpg", b"x"), ("/abs.jpg", b"y"), ("a.jpg", b"z")], link)
    out = tmp_path / "out" / "0.tar"
    mirror_shard(shard, out, key_of, lambda key: image(key, {"prose": "A."}), ("prose",))

    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [out]
    assert "a.lnk" not in dict(members(out))


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_a_damaged_shard_is_named_and_the_old_output_stays(tmp_path: Path, cut: int) -> None:
    shard = shard_of([("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)]).getvalue()[:cut]
    out = tmp_path / "0.tar"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"0\.tar.*damaged"):
        mirror_shard(
            io.BytesIO(shard), out, key_of, lambda k: image(k, {"prose": "A."}), ("prose",)
        )

    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_new_shards_are_read_by_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "_MOST_SAMPLES", 3)
    with Shards(tmp_path, ("prose",)) as shards:
        for number, text in enumerate(TEXTS):
            shards.add(image(f"{number}", {"prose": text}), f"s/{number}", "png", b"p")
    found = [sample for path in shards.files for sample in samples(path)]

    assert [path.name for path in shards.files] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [sample["txt"].decode() for sample in found] == list(TEXTS)
    assert [sample["__key__"] for sample in found] == [f"s/{n}" for n in range(len(TEXTS))]


def test_new_shards_are_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with Shards(tmp_path / "shards", ("prose",)) as shards:
        for number, text in enumerate(TEXTS):
            shards.add(image(f"{number}", {"prose": text}), f"{number}", "bin", b"p")
    options: Any = {"split": "train", "streaming": True}
    rows = load_dataset("webdataset", data_files=[str(p) for p in shards.files], **options)

    assert [row["txt"] for row in rows] == list(TEXTS)
    assert next(iter(rows))["json"]["joycap"]["sha256"] == "a" * 64


def test_a_shard_is_full_by_its_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "_MOST_BYTES", 10_000)
    with Shards(tmp_path, ("prose",)) as shards:
        for number in range(4):
            shards.add(image(f"{number}", {"prose": "A."}), f"{number}", "png", bytes(6000))

    assert len(shards.files) == 4


def test_shards_that_are_no_longer_needed_go_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "_MOST_SAMPLES", 1)
    (tmp_path / "000007.tar").write_bytes(b"mine")
    for count in (3, 1):
        with Shards(tmp_path, ("prose",)) as shards:
            for number in range(count):
                shards.add(image(f"{number}", {"prose": "A."}), f"{number}", "png", b"p")

    assert sorted(p.name for p in tmp_path.glob("*.tar")) == ["000000.tar", "000007.tar"]


def test_an_error_leaves_no_half_shard(tmp_path: Path) -> None:
    def broken() -> None:
        with Shards(tmp_path, ("prose",)) as shards:
            shards.add(image("a", {"prose": "A."}), "a", "png", b"p")
            raise ValueError

    with pytest.raises(ValueError):
        broken()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "stem", "name"),
    [
        ("sub/p 1.png", "p 1", "sub/p 1"),
        ("ü.png", "ü", "ü"),
        ("v1.2/a.png", "a", "v1.2/a"),
        ("row-17", None, "row-17"),
        ("__a__/b", None, "_a__/b-5d79f5a2ba"),
    ],
)
def test_samples_are_named_after_their_images(key: str, stem: str | None, name: str) -> None:
    assert sample_name(key, stem) == name


@given(st.sets(st.text(st.sampled_from("ab./_-\n"), min_size=1), min_size=2, max_size=20))
def test_no_two_keys_share_a_sample_and_none_leads_out(keys: set[str]) -> None:
    names = {key: sample_name(key) for key in keys if not key.endswith("/")}

    assert len(set(names.values())) == len(names)
    for name in names.values():
        assert MEMBER.fullmatch(f"{name}.png") is not None
        assert MEMBER.fullmatch(f"{name}.png")[1] == name  # type: ignore[index]
        assert not name.startswith("/")
        assert ".." not in name.split("/")


def test_of_two_samples_with_one_name_only_the_first_is_taken(tmp_path: Path) -> None:
    files = [("a.png", b"1"), ("b.png", b"2"), ("a.png", b"another picture")]
    captions = {"a": {"prose": "the first"}, "b": {"prose": "the second"}}
    found, counts = mirrored(files, captions, tmp_path / "out.tar")

    assert [data for name, data in found if name == "a.png"] == [b"1"]
    assert counts == {"": 2, NO_CAPTION: 1}
