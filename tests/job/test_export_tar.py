"""`joycap export --format tar` of a job that read shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from .helping import caption, color_of, joycap, make_pictures
from fault_server import FaultServer, name_of


def make_shards(folder: Path) -> list[Path]:
    """Two shards of three pictures each, the second one packed."""
    pictures = make_pictures(folder / "pictures", 6)
    shards = [folder / "000.tar", folder / "001.tar.gz"]
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w:gz" if number else "w") as tar:
            for place, picture in enumerate(pictures[3 * number : 3 * number + 3]):
                tar.add(picture, f"s{place}.png")
                info = tarfile.TarInfo(f"s{place}.json")
                info.size = 12
                tar.addfile(info, io.BytesIO(b'{"url": "u"}'))
    return shards


def test_each_shard_comes_again_with_its_captions(tmp_path: Path, server: FaultServer) -> None:
    first, second = make_shards(tmp_path)
    out = tmp_path / "out"
    caption(first, server, second, "--no-check", "--out", out)
    joycap("export", out, "--format", "tar")
    found = []
    for shard in (first, second):
        with tarfile.open(out / "shards" / shard.name) as tar:
            found += [
                (tar.extractfile(m) or io.BytesIO()).read()
                for m in tar
                if m.name.endswith((".txt", ".json"))
            ]

    assert [text.decode() for text in found[::2]] == [name_of(color_of(n)) for n in range(6)]
    assert {json.loads(about)["url"] for about in found[1::2]} == {"u"}


def test_the_shards_that_were_read_are_not_overwritten(tmp_path: Path, server: FaultServer) -> None:
    first, second = make_shards(tmp_path)
    before = first.read_bytes()
    caption(first, server, second, "--no-check", "--out", tmp_path / "out")
    done = joycap("export", tmp_path / "out", "--format", "tar", "--out", tmp_path, code=2)

    assert "would be overwritten" in done.stderr
    assert first.read_bytes() == before


def test_a_damaged_shard_is_left_out_alone(tmp_path: Path, server: FaultServer) -> None:
    first, second = make_shards(tmp_path)
    caption(first, server, second, "--no-check", "--out", tmp_path / "out")
    first.write_bytes(first.read_bytes()[:700])
    done = joycap("export", tmp_path / "out", "--format", "tar", code=1)

    assert "000.tar is not written: its shard is damaged" in done.stderr
    assert [p.name for p in (tmp_path / "out" / "shards").iterdir()] == ["001.tar.gz"]


@pytest.mark.parametrize(
    ("names", "extension"),
    [(["a.png", "b.png"], "png"), (["a.JPEG", "b.jpg"], "jpg"), (["a.png", "b.jpg"], "jpg")],
)
def test_all_pictures_of_new_shards_have_one_extension(
    names: list[str], extension: str, tmp_path: Path, server: FaultServer
) -> None:
    for name in names:
        Image.new("RGB", (9, 9), "red").save(tmp_path / name)
    caption(tmp_path, server, "--no-check")
    joycap("export", tmp_path, "--format", "tar")
    with tarfile.open(tmp_path / "shards" / "000000.tar") as shard:
        found = {name: shard.extractfile(name) for name in shard.getnames()}
        for name in names:
            stored = found[f"{Path(name).stem}.{extension}"]
            assert stored is not None
            assert stored.read() == (tmp_path / name).read_bytes(), "the picture is unchanged"
