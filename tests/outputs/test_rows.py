"""Text formats, read back by what their users read them with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from joycap_vllm.outputs import (
    NO_CAPTION,
    NO_FILE,
    CaptionedImage,
    finetune_writer,
    imagefolder_writer,
    jsonl_writer,
    kohya_writer,
)

from .exports import ONE, TEXTS, TWO, image, record, texts

IN_PLACE = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(*arguments: Any, **options: Any) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset(*arguments, split="train", **options)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos" / "sub é"
    folder.mkdir(parents=True)
    paths = [folder / f"p {n}.png" for n in range(len(TEXTS))]
    for path in paths:
        Image.new("RGB", (40, 30), (200, 0, 0)).save(path)
    return paths


def captioned(pictures: list[Path]) -> list[CaptionedImage]:
    return [
        image(f"{n}", {"prose": text}, path)
        for n, (text, path) in enumerate(zip(TEXTS, pictures, strict=True))
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_jsonl_is_read_by_datasets(tmp_path: Path, pictures: list[Path], streaming: bool) -> None:
    failed = image("bad.png", {}, prose=record("prose", "failed", why="no image", image=None))
    with jsonl_writer(tmp_path / "c.jsonl", ONE) as write:
        for each in [*captioned(pictures), failed]:
            assert write(each) == ""
    rows = list(
        load(
            "json",
            data_files=str(tmp_path / "c.jsonl"),
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )
    )

    assert [row["caption"] for row in rows] == [*TEXTS, None]
    assert (rows[0]["path"], rows[0]["width"]) == (str(pictures[0]), 40)
    assert (rows[-1]["outcome"], rows[-1]["why"], rows[-1]["width"]) == ("failed", "no image", None)


def test_every_row_of_jsonl_has_the_same_columns(tmp_path: Path) -> None:
    with jsonl_writer(tmp_path / "c.jsonl", TWO) as write:
        write(image("a", {"prose": "A dog."}))
        write(image("b", {"prose": "A cat.", "booru": "cat"}))
    first, second = map(json.loads, (tmp_path / "c.jsonl").read_bytes().splitlines())

    assert list(first) == list(second)
    assert (first["caption_booru"], first["outcome_booru"]) == (None, "open")
    assert (second["caption_booru"], second["outcome_booru"]) == ("cat", "ok")


@IN_PLACE
@given(st.lists(texts, max_size=5))
def test_any_text_stays_what_it_is_in_jsonl(tmp_path: Path, captions: list[str]) -> None:
    with jsonl_writer(tmp_path / "c.jsonl", ONE) as write:
        for caption in captions:
            write(image("k", {"prose": caption}))
    with (tmp_path / "c.jsonl").open(encoding="utf-8", newline="\n") as lines:
        assert [json.loads(line)["caption"] for line in lines] == captions


def kohya_captions(path: Path) -> dict[str, str]:
    """Captions by image, as sd-scripts reads them without an image folder: every key must be a
    whole path of an image that is there, and tags come behind the caption."""
    with path.open(encoding="utf-8") as file:
        metadata = json.load(file)
    found = {}
    for key, about in metadata.items():
        assert Path(key).is_absolute()
        assert Path(key).exists()
        caption, tags = about.get("caption") or "", about.get("tags") or ""
        found[key] = f"{caption}, {tags}" if caption and tags else caption + tags
    return found


def test_kohya_finds_every_image_and_its_caption(tmp_path: Path, pictures: list[Path]) -> None:
    with kohya_writer(tmp_path / "meta.json", ONE) as write:
        assert {write(each) for each in captioned(pictures)} == {""}

    assert kohya_captions(tmp_path / "meta.json") == dict(
        zip(map(str, pictures), TEXTS, strict=True)
    )


def test_kohya_gets_tags_apart_from_prose(tmp_path: Path, pictures: list[Path]) -> None:
    with kohya_writer(tmp_path / "meta.json", TWO) as write:
        write(image("a", {"prose": "A dog.", "booru": "dog, solo"}, pictures[0]))
        write(image("b", {"booru": "cat"}, pictures[1]))
    metadata = json.loads((tmp_path / "meta.json").read_bytes())

    assert list(metadata.values()) == [
        {"caption": "A dog.", "tags": "dog, solo", "image_size": [40, 30]},
        {"tags": "cat", "image_size": [40, 30]},
    ]
    assert list(kohya_captions(tmp_path / "meta.json").values()) == ["A dog., dog, solo", "cat"]


def test_a_name_that_is_no_unicode_is_found_by_kohya(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(b"x")
    with kohya_writer(tmp_path / "meta.json", ONE) as write:
        write(image("a", {"prose": "Coffee, \u00e9."}, path))

    assert kohya_captions(tmp_path / "meta.json") == {str(path): "Coffee, \u00e9."}


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder_is_read_by_datasets(
    tmp_path: Path, pictures: list[Path], streaming: bool
) -> None:
    folder = tmp_path / "photos"
    with imagefolder_writer(folder / "metadata.jsonl", TWO) as write:
        for each in captioned(pictures):
            assert write(each) == ""
    rows = list(
        load(
            "imagefolder",
            data_dir=str(folder),
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )
    )

    assert [row["text"] for row in rows] == list(TEXTS)
    assert {row["image"].size for row in rows} == {(40, 30)}


@pytest.mark.parametrize(
    ("name", "why"), [("../p.png", "below"), ("a\\b.png", "name"), ("a\udce9.png", "name")]
)
def test_what_an_image_folder_cannot_hold_is_left_out(tmp_path: Path, name: str, why: str) -> None:
    folder = tmp_path / "photos"
    path = Path(os.path.normpath(folder / name))
    with imagefolder_writer(folder / "metadata.jsonl", ONE) as write:
        assert why in write(image("k", {"prose": "A dog."}, path))
    assert (folder / "metadata.jsonl").read_bytes() == b""


def fine_tuning_examples(path: Path, images_path: Path) -> list[tuple[str, str, Path]]:
    """What JoyCaption's own trainer takes: a question, its answer, and the one image."""
    examples = json.loads(path.read_text())
    assert isinstance(examples, list)
    found = []
    for example in examples:
        question, answer = example["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        (name,) = example["images"]
        with Image.open(images_path / name) as picture:
            assert picture.size == (40, 30)
        found.append((question["content"], answer["content"], images_path / name))
    return found


def test_fine_tuning_data_are_read_by_its_trainer(tmp_path: Path, pictures: list[Path]) -> None:
    out = tmp_path / "finetune.json"
    asked = record("prose", asked="Drawn for this image.")
    with finetune_writer(out, TWO, tmp_path / "photos") as write:
        for each in captioned(pictures):
            assert write(each) == ""
        write(image("a", {"prose": "A.", "booru": "b"}, pictures[0], prose=asked))

    assert fine_tuning_examples(out, tmp_path / "photos") == [
        *(("Describe it.", text, path) for text, path in zip(TEXTS, pictures, strict=True)),
        ("Drawn for this image.", "A.", pictures[0]),
        ("List tags.", "b", pictures[0]),
    ]


@pytest.mark.parametrize("writer", [kohya_writer, imagefolder_writer, finetune_writer])
def test_images_without_a_caption_or_a_file_are_left_out(tmp_path: Path, writer: Any) -> None:
    rest = (tmp_path,) if writer is finetune_writer else ()
    with writer(tmp_path / "out.json", ONE, *rest) as write:
        assert write(image("a", {}, tmp_path / "a.png")) == NO_CAPTION
        assert write(image("a", {"prose": "A dog."})) == NO_FILE
    if writer is not imagefolder_writer:
        assert not json.loads((tmp_path / "out.json").read_bytes())
