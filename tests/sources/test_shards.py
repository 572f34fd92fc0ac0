"""WebDataset shards: what is a sample, and what becomes of damaged shards."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.sources import TarShards, WebRules, open_shard, open_source, shard_key
from joycap_vllm.sources.braces import expanded

from .helping import Web, images, keys, picture

RED = picture("red")


@pytest.fixture(scope="module")
def webdataset() -> Any:
    """What webdataset reads shards by; it imports torch, so that only its tests do."""
    return importlib.import_module("webdataset.tariterators")


def tar_bytes(*members: tuple[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    data = tar_bytes(*members)
    path.write_bytes(gzip.compress(data) if path.suffix in (".gz", ".tgz") else data)
    return path


@pytest.mark.parametrize("name", ["000.tar", "000.tar.gz", "000.tgz"])
def test_members_of_one_name_are_one_image(tmp_path: Path, name: str) -> None:
    path = shard(
        tmp_path / name,
        ("a.jpg", RED), ("a.json", b'{"tags": ["x"], "txt": "old"}'), ("a.txt", "näh".encode()),
        ("sub/b.txt", b"first"), ("sub/b.seg.png", b"mask"), ("sub/b.PNG", RED),
        ("c.txt", b"no image"), ("d.webp", b"last"),
    )  # fmt: skip
    found = images(path)

    assert [image.key for image in found] == [f"{name}/a", f"{name}/sub/b", f"{name}/d"]
    assert [image.read() for image in found] == [RED, RED, b"last"]
    assert [image.size() for image in found] == [len(RED), len(RED), 4]
    assert [dict(image.columns) for image in found] == [
        {"tags": ["x"], "txt": "näh"}, {"txt": "first"}, {},
    ]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_a_plain_shard_is_read_in_place_and_a_packed_one_sample_by_sample(
    tmp_path: Path, packed: bool
) -> None:
    members = [(f"{i:03}.jpg", os.urandom(200_000)) for i in range(50)]
    path = shard(tmp_path / ("a.tar.gz" if packed else "a.tar"), *members)
    stream = open_source([str(path)]).images()
    first = next(stream)

    assert first.read() == members[0][1]
    assert [image.read() for image in stream] == [data for _, data in members[1:]]
    with pytest.raises(ImageError, match="over the limit"):
        first.read(most=1000)


def test_samples_are_those_of_webdataset(tmp_path: Path, webdataset: Any) -> None:
    members = [
        ("x/a.b/c.jpg", b"1"), ("x/a.b/c.d.json", b"{}"), ("x/d.jpg", b"2"), ("./e.jpg", b"3"),
        ("f.tar.jpg", b"4"), ("g", b"5"), ("ü ä.jpg", b"6"),
    ]  # fmt: skip
    path = shard(tmp_path / "a.tar", *members)
    with path.open("rb") as stream:
        files = ({**m, "__url__": ""} for m in webdataset.tar_file_iterator(stream))
        theirs = list(webdataset.group_by_keys(files))
    expected = [f"a.tar/{sample['__key__'].removeprefix('./')}" for sample in theirs]

    assert keys(path) == expected


def test_pattern_of_shards_is_one_input(tmp_path: Path) -> None:
    for i in range(12):
        shard(tmp_path / f"{i:03}.tar", ("a.jpg", b"x"))
    (tmp_path / "sub").mkdir()
    pattern = str(tmp_path / "{000..011}.tar")

    assert keys(pattern) == [f"{i:03}.tar/a" for i in range(12)]
    assert keys(tmp_path / "00[0-2].tar") == ["000.tar/a", "001.tar/a", "002.tar/a"]
    with pytest.raises(UsageError, match=r"012\.tar does not exist"):
        open_source([str(tmp_path / "{000..012}.tar")])


def test_the_mirror_of_a_shard_finds_the_keys_of_its_members(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    shard(tmp_path / "x" / "0.tgz", ("a/b.jpg", RED), ("a/b.txt", b"words"), ("readme", b""))
    source = open_source([str(tmp_path / "x" / "0.tgz"), str(tmp_path)])
    part = source.parts[-1]
    assert isinstance(part, TarShards)
    with open_shard(part.shards[0]) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        found = [shard_key(part.names[0], name) for name in (m.name for m in tar)]

    assert found == [("x/0.tgz/a/b", "jpg"), ("x/0.tgz/a/b", "txt"), ("x/0.tgz/readme", "")]
    assert [image.key for image in part.images()] == ["x/0.tgz/a/b"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", ["cut in a file", "cut in a head", "no end", "garbage"])
def test_images_before_damage_are_had_and_the_damage_is_said(
    tmp_path: Path, damage: str, packed: bool
) -> None:
    data = bytearray(tar_bytes(*[(f"{i}.jpg", b"%d" % i * 700) for i in range(4)]))
    head = 2 * 1536  # of the third image: each takes a head of 512 bytes and two blocks
    if damage == "garbage":
        data[head : head + 512] = b"?" * 512
    else:
        cut = {"cut in a file": head + 900, "cut in a head": head + 100, "no end": head}
        del data[cut[damage] :]
    path = tmp_path / ("0.tar.gz" if packed else "0.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    whole = shard(tmp_path / "1.tar", ("z.jpg", b"z"))
    source = open_source([str(path), str(whole)])

    assert [image.read()[:1] for image in source.images()] == [b"0", b"1", b"z"]
    assert list(source.unreadable) == [path]
    assert "cut off" in source.unreadable[path]


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(1024), b"\x1f\x8bno gzip"])
def test_what_is_no_shard_does_not_stop_the_next(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    shard(tmp_path / "1.tar", ("a.jpg", b"x"))

    assert keys(tmp_path / "0.tar", tmp_path / "1.tar") == ["1.tar/a"]


def test_a_head_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    path = tmp_path / "0.tar"
    path.write_bytes(
        tar_bytes(("a.jpg", RED)).rstrip(b"\0").ljust(1024, b"\0") + info.tobuf(tarfile.GNU_FORMAT)
    )
    source = open_source([str(path)])

    assert [image.key for image in source.images()] == ["0.tar/a"]
    assert "has no end" in source.unreadable[path]


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_an_image_that_claims_to_be_huge_is_refused_unread(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    size = 1 << 29
    info = tarfile.TarInfo("bomb.jpg")
    info.size = size
    with path.open("wb") as raw:
        raw.write(info.tobuf()) if name == "0.tar" else raw.write(gzip.compress(info.tobuf()))
        if name == "0.tar":
            raw.truncate(512 + size)
            raw.seek(512 + size)
            raw.write(bytes(1024))
    first = next(open_source([str(path)]).images())

    with pytest.raises(ImageError, match="537 MB, over the"):
        first.read(most=1_000_000)


def test_links_and_folders_in_a_shard_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "a.jpg"), (tarfile.DIRTYPE, "b.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)

    assert keys(path) == []


def test_shards_behind_urls_are_streamed(web: Web) -> None:
    data = tar_bytes(("a.jpg", RED), ("a.txt", b"words"), ("b.jpg", b"2" * 70_000))
    web.bytes_at("/set/000.tar", data)
    web.bytes_at("/set/001.tar?x=1", gzip.compress(data))
    found = images(web.url + "/set/{000..000}.tar", web.url + "/set/001.tar?x=1",
                   web=WebRules(private=True))  # fmt: skip

    assert [i.key for i in found] == ["000.tar/a", "000.tar/b", "001.tar/a", "001.tar/b"]
    assert [i.read() for i in found] == [RED, b"2" * 70_000] * 2
    assert found[0].columns == {"txt": "words"}


def test_a_shard_whose_connection_breaks_is_said(web: Web) -> None:
    data = tar_bytes(("a.jpg", RED), ("b.jpg", b"2" * 70_000))
    url = web.bytes_at("/0.tar", data[:20_000], Content_Length=str(len(data)), Connection="close")
    source = open_source([url], WebRules(private=True, seconds=1))

    assert [image.key for image in source.images()] == ["0.tar/a"]
    assert list(source.unreadable) == [url]


names = st.lists(
    st.sampled_from(["a", "b", ".", "/", "jpg", ".jpg", ".json", "ü", "\\x80", "\n", ".."]),
    min_size=1, max_size=6,
).map("".join)  # fmt: skip


@given(name=names)
def test_any_member_has_a_key_as_webdataset_finds_it(webdataset: Any, name: str) -> None:
    key, extension = shard_key("s.tar", name)
    base, rest = webdataset.base_plus_ext(name.removeprefix("./"))

    assert key.startswith("s.tar/")
    if extension and rest is not None:  # theirs finds none after a line break
        assert (key.removeprefix("s.tar/").replace("\\\\x", "\\x"), extension) == (
            base,
            rest.lower(),
        )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("x{a,{1..2}}", ["xa", "x1", "x2"]),
        ("{a}", ["{a}"]),
        ("{}.tar", ["{}.tar"]),
        ("{{a,b}}", ["{a}", "{b}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_what_a_shell_takes_them_for(pattern: str, names: list[str]) -> None:
    assert sorted(expanded(pattern)) == sorted(names)


@given(st.integers(0, 9999), st.integers(0, 200), st.integers(1, 6))
def test_a_range_names_each_number_once(first: int, more: int, width: int) -> None:
    names = expanded(f"s-{{{first:0{width}}..{first + more:0{width}}}}.tar")

    assert [int(name[2:-4]) for name in names] == list(range(first, first + more + 1))


@given(st.text(alphabet="{},.a0/", max_size=12))
def test_any_pattern_ends(pattern: str) -> None:
    assert expanded(pattern)


def test_a_pattern_for_too_many_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="more than"):
        expanded("{0..999999999999}")
    with pytest.raises(UsageError, match="more than"):
        expanded("{0..9}" * 6)
