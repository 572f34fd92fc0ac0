"""Jobs over rows and shards: pictures that come with their bytes, and keys that are no paths."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm.captioner import CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.job import (
    Agenda,
    JobSettings,
    Journal,
    Plan,
    Progress,
    Stop,
    read_records,
    run_job,
)
from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Records
from joycap_vllm.outputs import SidecarOptions, Sidecars
from joycap_vllm.prompts import build_prompt
from joycap_vllm.sources import SourceImage
from joycap_vllm.sources.image import BytesPlace
from joycap_vllm.sources.source import Source

from .helping import caption, color_of, joycap, records
from fault_server import Asked, FaultServer, Reaction, name_of, say, serving


def picture(number: int) -> bytes:
    """A BMP of one colour: all of them are of one length."""
    data = io.BytesIO()
    Image.new("RGB", (12, 9), color_of(number)).save(data, "BMP")
    return data.getvalue()


def manifest(path: Path, pictures: dict[str, int]) -> Path:
    rows = [
        {"key": key, "image": base64.b64encode(picture(number)).decode()}
        for key, number in pictures.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shard(path: Path, numbers: list[int]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for place, number in enumerate(numbers):
            info = tarfile.TarInfo(f"s{place}.bmp")
            info.size = len(picture(number))
            tar.addfile(info, io.BytesIO(picture(number)))
    return path


def test_a_row_whose_picture_was_replaced_is_asked_again(
    tmp_path: Path, server: FaultServer
) -> None:
    rows = manifest(tmp_path / "rows.jsonl", {"a": 1, "b": 2})
    caption(rows, server, "--no-check")
    manifest(rows, {"new": 4, "a": 1, "b": 3})
    summary = caption(rows, server, "--no-check")
    latest = {record["key"]: record["caption"] for record in records(tmp_path)}

    assert latest == {
        "a": name_of(color_of(1)),
        "b": name_of(color_of(3)),
        "new": name_of(color_of(4)),
    }
    assert summary["requests"] == 2


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
def test_a_sample_whose_picture_was_replaced_is_asked_again(
    tmp_path: Path, server: FaultServer, name: str
) -> None:
    path = shard(tmp_path / name, [1, 2])
    caption(path, server, "--no-check", "--out", tmp_path / "out")
    shard(path, [1, 3])
    summary = caption(path, server, "--no-check", "--out", tmp_path / "out")
    again = caption(path, server, "--no-check", "--out", tmp_path / "out")

    assert summary["requests"] == 1
    assert again["requests"] == 0


class _Counted(bytes):
    """A picture whose life can be followed."""

    alive = 0

    def __new__(cls, data: bytes) -> _Counted:
        cls.alive += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        type(self).alive -= 1


class _Rows:
    unreadable: dict[Path | str, str] = {}  # noqa: RUF012
    may_repeat = False
    beside = False

    def __init__(self, count: int) -> None:
        self._count = count

    def images(self):  # type: ignore[no-untyped-def]
        for number in range(self._count):
            yield SourceImage(f"k{number}", BytesPlace(_Counted(picture(number))))

    def count(self) -> int:
        return self._count


def test_a_picture_that_came_with_its_bytes_is_let_go_once_it_is_prepared(tmp_path: Path) -> None:
    seen: list[int] = []

    def script(_: Asked) -> Reaction:
        gc.collect()
        seen.append(_Counted.alive)
        return say("A plain picture of one colour.", delay=0.5)

    async def run(url: str) -> None:
        settings = JobSettings(
            Source(tmp_path, (_Rows(8),)),
            (build_prompt("descriptive"),),
            SidecarOptions(("descriptive",), tmp_path, out=tmp_path / "out"),
            tmp_path / "state",
            urls=(url,),
            captioner=CaptionerOptions(check=False, fleet=FleetOptions(concurrency=8)),
        )
        progress = Progress()
        async with Journal(settings.state) as journal:
            plan = Plan(settings, read_records(settings.state))
            agenda = Agenda(plan, progress)
            await agenda.look()
            await run_job(
                plan, agenda, journal, progress,
                stop=Stop(), ready=lambda: None, watch=lambda _: None, say=lambda _: None,
            )  # fmt: skip

    with serving(script) as server:
        asyncio.run(run(server.url))

    assert (len(seen), seen[-1]) == (8, 0)


def test_a_job_may_change_its_form_and_asks_nothing_again(
    tmp_path: Path, server: FaultServer
) -> None:
    rows = manifest(tmp_path / "rows.jsonl", {"a": 1, "b": 2})
    out = tmp_path / "out"
    asked = [
        caption(rows, server, "--no-check", "--out", out, "--format", form)["requests"]
        for form in ("jsonl", "txt", "parquet", "txt", "tar")
    ]

    assert asked == [2, 0, 0, 0, 0]
    assert (out / "a.txt").read_text() == name_of(color_of(1))


def test_a_shard_that_is_none_is_told_with_its_name(tmp_path: Path, server: FaultServer) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no shard at all" * 100)
    done = joycap(
        "caption", tmp_path / "bad.tar", "--out", tmp_path / "out", "--base-url", server.url, code=2
    )

    assert "bad.tar cannot be read" in done.stderr
    assert "no image in " + str(tmp_path / "bad.tar") in done.stderr


def test_a_name_that_no_row_has_is_said_to_be_left_empty(
    tmp_path: Path, server: FaultServer
) -> None:
    rows = manifest(tmp_path / "rows.jsonl", {"a": 1})
    done = joycap(
        "caption", rows, "--base-url", server.url, "--no-check", "--prompt", "Describe it. {typo}"
    )

    assert "left empty" in done.stderr
    assert records(tmp_path)[0]["asked"] == "Describe it. "


HOSTILE = [
    "//etc/x",
    "//",
    "/",
    "..",
    "a/../../b",
    "///a",
    "./.joycap/job.json",
    "a\nb",
    "\x1b[31m",
]


@given(st.one_of(st.sampled_from(HOSTILE), st.text("/.ab\0\n\x1b", min_size=1)))
def test_no_key_leads_out_of_the_folder_of_captions(key: str) -> None:
    options = SidecarOptions(("descriptive",), Path("/r"), out=Path("/r/out"))
    homes = Homes(Sidecars(options), Path("/r"), Records([], 0))
    target, _ = homes.of(SourceImage(key, BytesPlace(b"")))
    (file,) = target.files.values()
    inside = file.relative_to("/r/out")

    assert not any(part.startswith(".") for part in inside.parts)
    assert str(inside).isprintable()
