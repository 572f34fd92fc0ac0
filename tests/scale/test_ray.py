"""`caption_dataset` on a real local Ray."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image

from joycap_vllm import CaptionerOptions, Prompt, Sampling
from joycap_vllm.prompts import Choice, custom_prompt
from joycap_vllm.scale import caption_dataset
from joycap_vllm.sources import WebRules

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(180),
    # Ray's and pandas' own; nothing that this package can mend.
    pytest.mark.filterwarnings("ignore"),
]
CAPTION = "A plain square in one colour."
OPTIONS = CaptionerOptions(check=False, retries=1, workers=1)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(60):
        (tmp_path / f"{number:02}.png").write_bytes(picture(number))
    (tmp_path / "broken.png").write_bytes(picture(1)[:60])
    return tmp_path


def rows_of(ds: Any) -> list[dict[str, Any]]:
    return sorted(ds.take_all(), key=lambda row: str(row.get("path", row.get("id"))))


def test_each_row_gets_its_caption_once_within_the_shared_concurrency(
    folder: Path, server: Any
) -> None:
    paths = [str(path) for path in sorted(folder.iterdir())]
    ds = ray.data.from_items([{"path": p, "n": n} for n, p in enumerate(paths)]).repartition(8)

    captioned = caption_dataset(
        ds, urls=[server.url], options=OPTIONS, concurrency=8, actors=2, batch_size=8
    )
    rows = rows_of(captioned)

    assert [row["path"] for row in rows] == paths
    assert [row["n"] for row in rows] == list(range(61))
    assert [row["caption"] for row in rows[:-1]] == [CAPTION] * 60
    assert {row["outcome"] for row in rows[:-1]} == {"ok"}
    assert {row["attempts"] for row in rows[:-1]} == {1}
    assert len(server.bodies) == 60
    assert 4 <= server.most <= 8


def test_an_unusable_picture_is_a_failed_row_and_no_request(folder: Path, server: Any) -> None:
    paths = [str(folder / "broken.png"), str(folder / "missing.png"), "nowhere://x.png", None]
    ds = ray.data.from_items([{"path": path} for path in paths])

    rows = caption_dataset(ds, urls=[server.url], options=OPTIONS, actors=1).take_all()

    whys = {row["path"]: row["why"] for row in rows}
    assert {row["outcome"] for row in rows} == {"failed"}
    assert {row["caption"] for row in rows} == {None}
    assert "damaged" in whys[paths[0]]
    assert "cannot be read: No such file" in whys[paths[1]]
    assert "may not name nowhere://" in whys[paths[2]]
    assert "is empty in this row" in whys[None]
    assert server.bodies == []


def test_several_prompts_get_columns_of_their_own(server: Any) -> None:
    ds = ray.data.from_items([{"id": n, "image": picture(n)} for n in range(4)])
    own = Prompt("colour", "Which colour?", "", "mixed", sampling=Sampling(seed=1))

    captioned = caption_dataset(
        ds,
        ["straightforward", own],
        urls=[server.url],
        options=OPTIONS,
        bytes_column="image",
        actors=1,
    )
    rows = rows_of(captioned)

    assert [row["caption_straightforward"] for row in rows] == [CAPTION] * 4
    assert [row["caption_colour"] for row in rows] == [CAPTION] * 4
    assert "caption" not in rows[0]
    asked = {body["messages"][-1]["content"][1]["text"] for body in server.bodies}
    assert "Which colour?" in asked
    assert len(server.bodies) == 8


def test_prompts_are_filled_from_the_rows_columns(server: Any) -> None:
    ds = ray.data.from_items([{"image": picture(n), "animal": f"bird {n}"} for n in range(3)])
    own = custom_prompt([Choice("Describe the {animal}.")])

    captioned = caption_dataset(
        ds, own, urls=[server.url], options=OPTIONS, bytes_column="image", actors=1
    )
    rows = captioned.take_all()

    asked = {body["messages"][-1]["content"][1]["text"] for body in server.bodies}
    assert asked == {f"Describe the bird {n}." for n in range(3)}
    assert {(row["finish"], row["model"]) for row in rows} == {("stop", "stub")}
    assert {(row["prompt_tokens"], row["completion_tokens"]) for row in rows} == {(800, 9)}


def test_urls_of_this_network_are_fetched_only_where_that_is_allowed(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.file = (folder / "00.png").read_bytes()
    url = server.url.removesuffix("/v1") + "/picture.png"

    def outcome(**web: Any) -> tuple[str, str]:
        ds = ray.data.from_items([{"path": url}])
        asked = caption_dataset(ds, urls=[server.url], options=OPTIONS, actors=1, **web)
        [row] = asked.take_all()
        return row["outcome"], row["why"]

    refused, allowed = outcome(), outcome(web=WebRules(private=True))

    assert refused[0] == "failed"
    assert "127.0.0.1" in refused[1]
    assert allowed[0] == "ok"


def test_pictures_as_ray_reads_them_are_captioned(server: Any, folder: Path) -> None:
    (folder / "broken.png").unlink()
    ds = ray.data.read_images(str(folder), mode="RGB", include_paths=True).limit(5)

    rows = caption_dataset(
        ds, urls=[server.url], options=OPTIONS, bytes_column="image", actors=1
    ).take_all()

    assert {row["outcome"] for row in rows} == {"ok"}
    assert len(server.bodies) == 5


def test_servers_are_found_in_a_file_and_a_dead_one_ends_the_job(server: Any, folder: Path) -> None:
    listing = folder / "fleet.txt"
    ds = ray.data.from_items([{"path": str(folder / "01.png")}])

    def run() -> list[dict[str, Any]]:
        found = replace(OPTIONS, endpoints=str(listing))
        return list(caption_dataset(ds, options=found, actors=1).take_all())

    listing.write_text(f"{server.url}\n")
    assert run()[0]["outcome"] == "ok"
    listing.write_text("http://127.0.0.1:9/v1\n")
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9/v1"):
        run()


def test_a_glitch_is_told_and_not_handed_out(server: Any) -> None:
    server.glitchy = True
    ds = ray.data.from_items([{"image": picture(1)}])

    [row] = caption_dataset(
        ds, urls=[server.url], options=OPTIONS, bytes_column="image", actors=1
    ).take_all()

    assert (row["outcome"], row["glitch"], row["attempts"]) == ("glitched", "repetition", 2)
    assert row["caption"] is None
    assert row["why"]


@pytest.mark.parametrize(
    ("row", "words"),
    [({"file": "a.png"}, "no column 'path'"), ({"path": "a", "why": "b"}, "need: why")],
)
def test_columns_that_do_not_fit_end_the_job_with_the_reason(
    server: Any, row: dict[str, str], words: str
) -> None:
    ds = caption_dataset(ray.data.from_items([row]), urls=[server.url], options=OPTIONS, actors=1)

    with pytest.raises(Exception, match=words):
        ds.take_all()
