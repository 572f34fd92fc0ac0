"""Datasets of the datasets library, in the layouts that it makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.errors import UsageError
from joycap_vllm.sources import open_source
from joycap_vllm.sources.hub import DatasetName, dataset_of

from .helping import images, keys, picture

datasets = pytest.importorskip("datasets")
RED, BLUE = picture("red"), picture("blue", "JPEG")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def made(**columns: list[Any]) -> Any:
    """A dataset of two pictures and these columns."""
    pictures = [{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}]
    kinds = {name: datasets.Value("string") for name in columns}
    features = datasets.Features({"photo": datasets.Image(), **kinds})
    return datasets.Dataset.from_dict({"photo": pictures, **columns}, features=features)


def test_a_saved_dataset_is_a_folder_to_give(tmp_path: Path) -> None:
    made(tags=["x", "y"]).save_to_disk(tmp_path / "set")
    found = images(tmp_path / "set")

    assert [image.key for image in found] == ["train/a.png#1", "train#2"]
    assert [image.read() for image in found] == [RED, BLUE]
    assert [image.columns for image in found] == [{"tags": "x"}, {"tags": "y"}]
    assert open_source([str(tmp_path / "set")]).count() == 2


def test_splits_follow_each_other_and_keep_keys_apart(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": made(), "test": made()})
    both.save_to_disk(tmp_path / "set")

    assert sorted(keys(tmp_path / "set")) == [
        "test#2", "test/a.png#1", "train#2", "train/a.png#1",
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["key", "__key__"])
def test_a_column_of_keys_is_used(tmp_path: Path, column: str) -> None:
    made(**{column: ["one", "two"]}).save_to_disk(tmp_path / "set")

    assert keys(tmp_path / "set") == ["one", "two"]


def test_the_layout_of_the_hub_is_read_as_a_stream(tmp_path: Path) -> None:
    home = tmp_path / "set"
    (home / "data").mkdir(parents=True)
    made(tags=["x", "y"]).to_parquet(home / "data" / "train-00000-of-00001.parquet")
    made(tags=["z", "z"]).to_parquet(home / "data" / "test-00000-of-00001.parquet")
    assert sorted(keys(f"hf://{home}")) == [
        "test#2", "test/a.png#1", "train#2", "train/a.png#1",
    ]  # fmt: skip
    (home / "README.md").write_text("---\ndataset_info:\n  features: []\n---\n")

    assert dataset_of(str(home)) == DatasetName(str(home), True)


def test_an_imagefolder_keeps_the_names_of_its_files(tmp_path: Path) -> None:
    home = tmp_path / "set"
    (home / "train" / "cats").mkdir(parents=True)
    (home / "train" / "cats" / "ä b.png").write_bytes(RED)
    (home / "train" / "metadata.jsonl").write_text('{"file_name": "cats/ä b.png", "tags": "x"}\n')
    (image,) = images(f"hf://{home}")

    assert (image.key, image.read()) == ("train/cats/ä b.png", RED)
    assert image.path == home / "train" / "cats" / "ä b.png"
    assert image.columns == {"tags": "x"}


def test_a_plain_folder_of_images_stays_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "README.md").write_text("Photos of mine.")

    assert keys(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://datasets/o/n", DatasetName("o/n", False)),
        ("hf://datasets/o/n@v1/test", DatasetName("o/n", False, "v1", None, "test")),
        ("hf://datasets/o/n/small/test/", DatasetName("o/n", False, None, "small", "test")),
    ],
)
def test_what_a_url_of_the_hub_names(text: str, name: DatasetName) -> None:
    assert dataset_of(text) == name


@pytest.mark.parametrize(
    "text", ["hf://datasets/o", "hf://datasets/o/n/a/b/c", "hf://nothing-here"]
)
def test_what_names_no_dataset_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="hf://datasets/OWNER/NAME"):
        open_source([text])


def test_a_dataset_without_images_is_said_at_once(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "set")

    with pytest.raises(UsageError, match="no column of images; it has text"):
        open_source([str(tmp_path / "set")])


def test_a_dataset_that_cannot_be_had_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="nobody/nothing cannot be opened"):
        open_source(["hf://datasets/nobody/nothing"])
