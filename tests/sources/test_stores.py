"""Images in stores: a real S3 server of this machine, and fsspec's memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.sources import open_source

from .helping import images, keys, picture

RED = picture("red")
pytestmark = pytest.mark.xdist_group("s3")  # fsspec keeps the server's first address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system of an empty S3 server that inputs reach too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    files.mkdir("bucket")
    yield files
    files.rm("bucket", recursive=True)


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A store's scheme and file system."""
    return request.param, request.getfixturevalue(request.param)


def put(files: Any, *names: str, data: bytes = RED) -> None:
    for name in names:
        files.pipe_file(f"bucket/{name}", data)


def tarred(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(RED)
            tar.addfile(info, io.BytesIO(RED))
    return buffer.getvalue()


def test_a_folder_of_a_store_is_walked(store: tuple[str, Any]) -> None:
    scheme, files = store
    put(files, "set/b.png", "set/a ü.jpg", "set/sub/c.webp", "set/note.md", "set/.git/d.png",
        "set/_controls/e.png", "other/f.png")  # fmt: skip
    found = images(f"{scheme}://bucket/set/")

    assert [image.key for image in found] == ["a ü.jpg", "b.png", "sub/c.webp"]
    assert [image.size() for image in found] == [len(RED)] * 3
    assert found[2].read() == RED
    with pytest.raises(ImageError, match="over the limit"):
        found[2].read(most=10)


def test_patterns_and_single_images_of_a_store(store: tuple[str, Any]) -> None:
    scheme, files = store
    put(files, "set/a1.png", "set/a2.png", "set/b.png", "set/a.txt", "set/sub/a3.png")

    assert keys(f"{scheme}://bucket/set/a*") == ["a1.png", "a2.png"]
    assert keys(f"{scheme}://bucket/set/**/a*.png") == ["a1.png", "a2.png", "sub/a3.png"]
    (image,) = images(f"{scheme}://bucket/set/b.png")
    assert (image.key, image.read()) == (f"{scheme}://bucket/set/b.png", RED)


def test_manifests_lists_and_shards_of_a_store_name_what_is_beside_them(
    store: tuple[str, Any],
) -> None:
    scheme, files = store
    put(files, "set/img/a.png")
    row = {"path": "img/a.png", "tags": "x"}
    put(files, "set/rows.jsonl", data=json.dumps(row).encode())
    put(files, "set/list.txt", data=b"img/a.png\nimg/../img/a.png\n")
    put(files, "set/0.tar", "set/1.tar", data=tarred("x/a.png", "b.png"))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": ["img/a.png"], "tags": ["x"]}), buffer)
    put(files, "set/rows.parquet", data=buffer.getvalue())
    home = f"{scheme}://bucket/set"

    for name in ("rows.jsonl", "rows.parquet"):
        (image,) = images(f"{home}/{name}")
        assert (image.key, image.columns, image.read()) == ("img/a.png", {"tags": "x"}, RED)
    assert [image.read() for image in images(f"{home}/list.txt")] == [RED, RED]
    found = images(f"{home}/{{0..1}}.tar")
    assert [i.key for i in found] == ["0.tar/x/a", "0.tar/b", "1.tar/x/a", "1.tar/b"]
    assert [i.read() for i in found] == [RED] * 4


def test_many_threads_read_from_a_store(s3: Any) -> None:
    put(s3, *[f"set/{i:02}.png" for i in range(20)])
    found = images("s3://bucket/set")
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda image: image.read(), found)) == [RED] * 20


def test_several_inputs_keep_their_keys_apart(memory: Any) -> None:
    put(memory, "one/a.png", "two/a.png")

    assert keys("memory://bucket/one", "memory://bucket/two/") == [
        "memory://bucket/one/a.png", "memory://bucket/two/a.png",
    ]  # fmt: skip


def test_what_a_store_does_not_have_is_said(store: tuple[str, Any]) -> None:
    scheme, files = store
    put(files, "set/a.png")
    (image,) = images(f"{scheme}://bucket/set")
    files.rm("bucket/set/a.png")

    with pytest.raises(ImageError, match="does not exist"):
        image.read()
    with pytest.raises(UsageError, match="does not exist"):
        open_source([f"{scheme}://bucket/nothing/"])
    with pytest.raises(UsageError, match="does not exist"):
        open_source([f"{scheme}://bucket/nothing.parquet"])


def test_an_empty_object_has_no_bytes(s3: Any) -> None:
    put(s3, "set/a.png", data=b"")

    assert images("s3://bucket/set")[0].read() == b""
    assert images("s3://bucket/set/a.png")[0].read() == b""


@pytest.mark.parametrize(
    ("url", "words"),
    [("s3://bucket/x", "joycap-vllm[s3]"), ("gs://bucket/x", "gcsfs"), ("x.parquet", "[parquet]")],
)
def test_a_missing_package_is_named(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "x.parquet").touch()
    where = url if "://" in url else str(tmp_path / url)
    script = f"""import sys
sys.modules.update(s3fs=None, gcsfs=None, pyarrow=None)
from joycap_vllm.errors import UsageError
from joycap_vllm.sources import open_source
try: open_source([{where!r}])
except UsageError as error: print(error)"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert words in done.stdout


def test_an_unknown_kind_of_url_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        open_source(["nosuch://bucket/x"])


def test_a_file_url_is_a_path(tmp_path: Any) -> None:
    (tmp_path / "a b#1?.png").write_bytes(RED)
    (image,) = images((tmp_path / "a b#1?.png").as_uri())

    assert (image.key, image.read()) == ("a b#1?.png", RED)
