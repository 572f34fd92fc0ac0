"""Manifests and lists: what rows may say, and what becomes of rows that say nothing."""

from __future__ import annotations

import base64
import gzip
import json
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.sources import WebRules, open_source
from joycap_vllm.sources.rows import Places, RowReader
from joycap_vllm.sources.streams import lines_of

from .helping import Web, images, keys, picture

RED = picture("red")


def jsonl(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def why(path: Path) -> dict[str, str]:
    """What each image that cannot be read says, by key."""
    said = {}
    for image in images(path):
        try:
            image.read()
        except ImageError as error:
            said[image.key] = str(error)
    return said


def test_rows_name_paths_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.png").write_bytes(RED)
    rows = jsonl(tmp_path / "rows.jsonl", {"path": "sub/a b.png", "tags": ["x"], "score": 0.5})
    (image,) = images(rows)

    assert image.key == "sub/a b.png"
    assert image.path == tmp_path / "sub" / "a b.png"
    assert image.columns == {"tags": ["x"], "score": 0.5}
    assert image.read() == RED


def test_keys_come_from_the_row_where_it_has_one(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path / "rows.jsonl",
        {"path": "a.png", "key": "the first"},
        {"path": "b.png", "key": None},
        {"url": "https://example.com/c.png"},
        {"url": "https://me:secret@example.com/d.png"},
    )

    assert keys(rows) == [
        "the first", "b.png", "https://example.com/c.png", "https://example.com/d.png",
    ]  # fmt: skip


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:;base64,"])
def test_a_row_may_hold_the_picture_as_base64(tmp_path: Path, head: str) -> None:
    text = base64.b64encode(RED).decode()
    lined = base64.encodebytes(RED).decode()
    urlsafe = base64.urlsafe_b64encode(RED).decode().rstrip("=")
    rows = [{"image": head + t, "n": 1} for t in (text, lined, urlsafe)]
    found = images(jsonl(tmp_path / "rows.jsonl", *rows))

    assert [image.key for image in found] == ["rows.jsonl#1", "rows.jsonl#2", "rows.jsonl#3"]
    assert [image.read() for image in found] == [RED] * 3
    assert found[0].size() == len(RED)
    assert found[0].columns == {"n": 1}
    with pytest.raises(ImageError, match="over the limit"):
        found[0].read(most=10)


def test_bytes_are_nearer_than_paths_and_paths_than_urls(tmp_path: Path) -> None:
    text = base64.b64encode(RED).decode()
    rows = jsonl(
        tmp_path / "rows.jsonl",
        {"path": "gone.png", "image": text},
        {"path": "a.png", "url": "https://example.com/a.png"},
    )
    first, second = images(rows)

    assert (first.key, first.read()) == ("gone.png", RED)
    assert (second.key, second.path) == ("a.png", tmp_path / "a.png")


def test_bad_rows_neither_stop_the_job_nor_vanish(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path / "rows.jsonl",
        "{no json",
        "",
        "[1, 2]",
        '"text"',
        {"caption": "no picture"},
        {"key": "named", "tags": "x"},
        {"path": "a.png", "key": 7},
        {"path": 5},
        {"image": "photos/a.jpg"},
        {"image": 3},
        {"path": "nul\0byte.png"},
        '{"path": "lone \\ud800.png"}',
        {"url": "ftp://example.com/a.png"},
        {"url": "simplecache::http://127.0.0.1/a.png"},
    )

    said = why(rows)
    assert list(said) == [
        "rows.jsonl#1", "rows.jsonl#3", "rows.jsonl#4", "rows.jsonl#5", "named", "a.png",
        "rows.jsonl#8", "rows.jsonl#9", "rows.jsonl#10", "nul\0byte.png", "rows.jsonl#12",
        "ftp://example.com/a.png", "simplecache::http://127.0.0.1/a.png",
    ]  # fmt: skip
    assert "no JSON" in said["rows.jsonl#1"]
    assert "no JSON object" in said["rows.jsonl#3"]
    assert "has no `path`, `url` or `image`" in said["rows.jsonl#5"]
    assert "`key` is no text" in said["a.png"]
    assert "a path goes into `path`" in said["rows.jsonl#9"]
    assert "may not name ftp://" in said["ftp://example.com/a.png"]
    assert "may not name simplecache::http://" in said["simplecache::http://127.0.0.1/a.png"]


def test_a_packed_manifest_is_read_as_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"path": "a.png"}\r\n{"path": "b.png"}'))

    assert keys(path) == ["a.png", "b.png"]
    assert open_source([str(path)]).count() == 2


def test_a_damaged_end_is_said_after_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    lines = b"".join(
        b'{"path": "%d-%s.png"}\n' % (i, os.urandom(9).hex().encode()) for i in range(30_000)
    )
    path.write_bytes(gzip.compress(lines)[:-200])
    source = open_source([str(path)])

    assert len(list(source.images())) > 10_000
    assert "end" in source.unreadable[path]


def test_rows_are_counted_without_being_read(tmp_path: Path) -> None:
    rows = jsonl(tmp_path / "rows.jsonl", *[{"path": f"{i}.png"} for i in range(1000)])
    table = parquet(tmp_path / "rows.parquet", {"path": [f"{i}.png" for i in range(1000)]})

    assert open_source([str(rows)]).count() == 1000
    assert open_source([str(table)]).count() == 1000
    assert open_source([str(rows), str(table)]).count() == 2000


def test_a_parquet_row_is_a_row(tmp_path: Path) -> None:
    table = parquet(
        tmp_path / "rows.parquet",
        {
            "path": ["a.png", None, None, None, None],
            "url": [None, "https://example.com/b.png", None, None, None],
            "image": [None, None, {"bytes": RED, "path": "c.png"}, {"bytes": RED}, None],
            "tags": [["x", "y"], [], None, None, ["z"]],
            "mask": [b"1", b"2", b"3", b"4", b"5"],
        },
    )  # fmt: skip
    found = images(table)

    assert [image.key for image in found] == [
        "a.png", "https://example.com/b.png", "c.png", "rows.parquet#4", "rows.parquet#5",
    ]  # fmt: skip
    assert found[0].columns == {"tags": ["x", "y"]}
    assert found[0].path == tmp_path / "a.png"
    assert found[2].read() == found[3].read() == RED
    with pytest.raises(ImageError, match="has no `path`"):
        found[4].read()


def test_parquet_images_are_read_in_small_batches(tmp_path: Path) -> None:
    data = [os.urandom(1 << 18) for _ in range(80)]
    table = parquet(
        tmp_path / "rows.parquet",
        {"key": [str(i) for i in range(80)], "image": data},
        use_dictionary=False,
        write_batch_size=4,  # as large pages as images are
    )
    before = pa.total_allocated_bytes()
    stream = open_source([str(table)]).images()

    assert [next(stream).read() for _ in range(3)] == data[:3]
    assert pa.total_allocated_bytes() - before < 16 << 20
    assert [image.read() for image in stream] == data[3:]


def test_what_is_no_parquet_or_has_no_image_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"no parquet")
    other = parquet(tmp_path / "other.parquet", {"file": ["a.png"]})

    with pytest.raises(UsageError, match=r"no\.parquet cannot be read as Parquet"):
        open_source([str(tmp_path / "no.parquet")])
    with pytest.raises(UsageError, match="no column `path`, `url` or `image`; it has file"):
        open_source([str(other)])


def test_folders_manifests_and_lists_make_one_source(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(RED)
    rows = jsonl(tmp_path / "rows.jsonl", {"path": "b.png"})
    (tmp_path / "list.txt").write_text("photos/c.png\n")
    source = open_source([str(tmp_path / "photos"), str(rows), str(tmp_path / "list.txt")])

    assert source.root == tmp_path
    assert source.may_repeat
    assert [image.key for image in source.images()] == ["photos/a.png", "b.png", "photos/c.png"]
    again = open_source(source.inputs)
    assert [image.key for image in again.images()] == ["photos/a.png", "b.png", "photos/c.png"]


def test_a_list_may_name_urls_and_names_that_are_no_unicode(tmp_path: Path, web: Web) -> None:
    url = web.bytes_at("/a.png", RED)
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    bad.write_bytes(RED)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"# a comment\n\n./x/../bad\xff.png\r\n%s\n/abs/b.png\n" % url.encode())
    found = images(listed, web=WebRules(private=True))

    assert [image.key for image in found] == ["bad\\xff.png", url, "/abs/b.png"]
    assert found[0].read() == found[1].read() == RED


@pytest.mark.parametrize("content", [b"", b"\n# only words\n", b"a.png\0b"])
def test_a_list_that_names_nothing_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)

    with pytest.raises(UsageError, match=r"the list .*list\.txt"):
        open_source([str(tmp_path / "list.txt")])


def test_a_manifest_behind_a_url_names_images_beside_it(tmp_path: Path, web: Web) -> None:
    web.bytes_at("/set/rows.jsonl", b'{"path": "a b.png"}\n{"path": "/etc/passwd"}\n')
    web.bytes_at("/set/a%20b.png", RED)
    first, second = images(web.url + "/set/rows.jsonl", web=WebRules(private=True))

    assert (first.key, first.read()) == ("a b.png", RED)
    with pytest.raises(ImageError, match="of another machine"):
        second.read()


def test_a_manifest_that_vanished_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    gone = jsonl(tmp_path / "gone.jsonl", {"path": "a.png"})
    rows = jsonl(tmp_path / "rows.jsonl", {"path": "b.png"})
    source = open_source([str(gone), str(rows)])
    gone.unlink()

    assert [image.key for image in source.images()] == ["b.png"]
    assert source.unreadable == {gone: "it does not exist"}


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=9),
    st.lists(st.text(), max_size=2),
    st.dictionaries(st.sampled_from(["bytes", "path", "x"]), st.one_of(st.text(), st.binary())),
)  # fmt: skip


@settings(max_examples=50)
@given(
    st.one_of(
        values, st.dictionaries(st.sampled_from(["key", "path", "url", "image", "n"]), values)
    )
)
def test_any_row_becomes_an_image_with_a_name(row: Any) -> None:
    given_ = dict(row) if isinstance(row, dict) else {}
    image = RowReader("rows", Places("/nowhere-at-all/", WebRules(seconds=0.01))).image(row, 7)

    assert isinstance(image.key, str)
    assert image.key
    assert not {"key", "path", "url", "image"} & set(image.columns)
    if isinstance(given_.get("key"), str) and given_["key"]:
        assert image.key == given_["key"]


class Pieces:
    """A stream that gives a few bytes at a time."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    def read(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


@given(st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc"])).map(b"".join)))
def test_lines_are_the_same_however_they_arrive(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    lines = whole.split(b"\n")
    expected = lines if lines[-1] else lines[:-1]

    assert list(lines_of(Pieces(pieces))) == expected  # type: ignore[arg-type]


def test_a_line_without_an_end_is_not_held() -> None:
    pieces = [b"short\n", *[b"x" * 100] * 50, b"tail\nnext\n", b"y" * 300]

    assert list(lines_of(Pieces(pieces), longest=200)) == [b"short", None, b"next", None]  # type: ignore[arg-type]


def test_a_parquet_manifest_behind_a_url_is_read_in_parts(tmp_path: Path, web: Web) -> None:
    names = [f"{i:05}-{os.urandom(20).hex()}.png" for i in range(20_000)]
    data = parquet(tmp_path / "rows.parquet", {"path": names}).read_bytes()

    def parts(request: BaseHTTPRequestHandler) -> None:
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        request.send_header("Content-Length", str(len(part)))
        request.end_headers()
        request.wfile.write(part)

    found = images(web.at("/set/rows.parquet", parts), web=WebRules(private=True))
    assert [image.key for image in found] == names
    with pytest.raises(UsageError, match="gives no parts of files"):
        images(web.bytes_at("/whole.parquet", data), web=WebRules(private=True))
