"""Trainers and readers read what is written, by the lines of the README."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .reading import Row, rows
from fault_server import serving
from forking import run_joycap

ROWS = rows("tool")
NUMBERS = range(7)


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a folder of pictures with their sidecars and their journal."""
    home = tmp_path_factory.mktemp("captioned")
    for number in NUMBERS:
        path = (
            home
            / "photos"
            / ("", "sub é")[number % 2]
            / f"p {number}.{'jpg' if number < 4 else 'png'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (30 * number, 100, 50)).save(path)
    with serving() as server:
        run(["caption", "photos/", "--base-url", server.url], home)
    return home


def run(arguments: list[str], home: Path) -> None:
    done = run_joycap(arguments, cwd=home)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def home(captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, which is the working directory, with a server where `joycap` looks for it."""
    copy = tmp_path / "home"
    shutil.copytree(captioned, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        monkeypatch.setenv("JOYCAP_BASE_URL", server.url)
        yield copy


def forget(home: Path) -> None:
    """Leaves just the pictures."""
    shutil.rmtree(home / "photos" / ".joycap")
    for path in home.glob("photos/**/*.txt"):
        path.unlink()


def captions_of(home: Path) -> list[str]:
    found = sorted(path.read_text() for path in home.glob("photos/**/*.txt"))
    assert len(found) == len(NUMBERS)
    return found


@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",  # webdataset leaves shards open
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.tool}: {row.commands[0]}")
def test_the_lines_of_the_readme_read_every_caption(row: Row, home: Path) -> None:
    import datasets
    import pandas as pd
    import webdataset as wds

    datasets.disable_progress_bars()
    load = {"cache_dir": str(home / "cache")}
    names: dict[str, Any] = {
        "pd": pd,
        "wds": wds,
        "load_dataset": lambda *args, **more: datasets.load_dataset(*args, **more, **load),
    }
    if row.commands[0].startswith("joycap caption"):
        forget(home)
    for command in row.commands:
        run(shlex.split(command)[1:], home)
    assert row.commands
    for line in row.readers:
        assert sorted(eval(line, dict(names))) == captions_of(home)  # noqa: S307


def test_each_way_of_reading_is_in_the_readme() -> None:
    readers = list(itertools.chain.from_iterable(row.readers for row in ROWS))

    assert sum("load_dataset" in line for line in readers) == 4
    assert sum("wds." in line for line in readers) == 1


def test_an_image_folder_gives_each_picture_its_own_caption(home: Path) -> None:
    import datasets

    run(["export", "photos/", "--format", "imagefolder"], home)
    options: Any = {"split": "train", "cache_dir": str(home / "cache")}
    found = datasets.load_dataset("imagefolder", data_dir="photos", **options)

    assert len(found) == len(NUMBERS)
    for row in found:
        red = row["image"].getpixel((9, 9))[0]
        assert abs(int(row["text"][-7:-5], 16) - red) <= 2, "JPEG may change a colour a little"


def test_the_journals_beside_pictures_disturb_no_reader(home: Path) -> None:
    import datasets

    options: Any = {"split": "train", "cache_dir": str(home / "cache")}
    found = datasets.load_dataset("imagefolder", data_dir="photos", drop_labels=True, **options)

    assert len(found) == len(NUMBERS)
    assert found.column_names == ["image"]


@pytest.mark.parametrize("extension", [".txt", ".caption"])
def test_sidecars_keep_the_rules_of_trainers(extension: str, home: Path) -> None:
    """One line, so that kohya takes all of it and OneTrainer and SimpleTuner one caption; in UTF-8
    without a mark, since they read no other; never empty, which kohya refuses."""
    forget(home)
    run(["caption", "photos/", "--ext", extension], home)
    for picture in home.glob("photos/**/p*.[jp]*g"):
        data = picture.with_suffix(extension).read_bytes()
        assert data
        assert not data.startswith(b"\xef\xbb\xbf")
        assert len(data.decode().splitlines()) == 1


def test_the_metadata_for_kohya_names_every_picture_as_its_loader_finds_it(home: Path) -> None:
    run(["export", "photos/", "--format", "kohya", "--out", "meta.json"], home)
    found = json.loads((home / "meta.json").read_text())

    assert {Path(name) for name in found} == set(home.glob("photos/**/p*.[jp]*g"))
    assert sorted(entry["caption"] for entry in found.values()) == captions_of(home)
