"""Datasets of the datasets library: of the hub, and in its layouts on this machine.

Keys: a row's `key` or `__key__`; else, for a picture that is a file of the dataset, that file's
path in it; else the split, the picture's name where it has one, and the row's number, since names
within rows need not be unique: `train/cat.jpg#17`, `train#17`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.sources.image import BytesPlace, FilePlace, NoPlace, Place, SourceImage
from joycap_vllm.sources.keys import escaped_name
from joycap_vllm.sources.store import StorePlace, in_words
from joycap_vllm.sources.streams import is_remote

ON_HUB = "hf://datasets/"


@dataclass(frozen=True, slots=True)
class DatasetName:
    """Which rows of which dataset.

    Args:
        name: `OWNER/NAME` on the hub, or a folder of this machine.
        local: Whether it is a folder.
        revision: A branch, tag or commit of the hub.
        config: Its configuration, where it has several.
        split: Its split; None for all.
    """

    name: str
    local: bool
    revision: str | None = None
    config: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class DatasetRows:
    """The rows of a dataset, streamed, their pictures left encoded.

    Args:
        dataset: Which rows.
        before: What each key begins with.
        unreadable: Why it could not be read to its end, noted while walking.
    """

    dataset: DatasetName
    before: str = ""
    unreadable: dict[Path | str, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = True
    beside: ClassVar[bool] = False

    def images(self) -> Iterator[SourceImage]:
        """An image for each row, split by split."""
        for split, rows in _opened(self.dataset).items():
            try:
                for number, row in enumerate(rows, 1):
                    yield self._image(split, dict(row), number)
            except Exception as error:  # whatever reads the dataset's files may raise anything
                self.unreadable[f"{self.dataset.name} ({split})"] = in_words(error)

    def count(self) -> int | None:
        """Its rows, where the dataset tells."""
        counts = [_rows_of(rows) for rows in _opened(self.dataset).values()]
        return (
            sum(known)
            if len(known := [n for n in counts if n is not None]) == len(counts)
            else None
        )

    def require(self) -> None:
        """Opens it, so that what cannot be read is said at once.

        Raises:
            MissingExtraError: The datasets library is not installed.
            UsageError: It cannot be opened, or has no column of images.
        """
        _opened(self.dataset)

    def _image(self, split: str, row: dict[str, Any], number: int) -> SourceImage:
        held = row.pop(_IMAGE) or {}
        names = [row.pop(name, None) for name in ("key", "__key__")]
        key = next((name for name in names if isinstance(name, str) and name), None)
        name, place = self._picture(split, held.get("bytes"), held.get("path"), number)
        return SourceImage(self.before + (key or escaped_name(name)), place, row)

    def _picture(
        self, split: str, data: bytes | None, path: str | None, number: int
    ) -> tuple[str, Place]:
        if data is None and path:
            return self._file(path)
        name = f"{split}/{_last(path)}#{number}" if path else f"{split}#{number}"
        return name, NoPlace("the row has no image") if data is None else BytesPlace(data)

    def _file(self, path: str) -> tuple[str, Place]:
        """The name and place of a picture that is a file of its own."""
        inside = path.partition("::")[0].removeprefix("zip://") if "::" in path else path
        home = self.dataset.name if self.dataset.local else ON_HUB + self.dataset.name
        name = inside.removeprefix(home).lstrip("/") if inside.startswith(home) else _last(inside)
        if inside.startswith(f"{home}@"):
            name = inside[len(home) :].partition("/")[2]
        if path.rpartition("::")[2].startswith(ON_HUB):
            return name, StorePlace(path)
        if self.dataset.local and not is_remote(path):
            return name, FilePlace(path)
        return name, NoPlace("its row names a file outside of the dataset")


_IMAGE = "\0image"  # a column of this name is in no dataset


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def dataset_of(text: str) -> DatasetName | None:
    """The dataset that an input names; None where it names none.

    Args:
        text: `hf://datasets/OWNER/NAME[@REVISION][/SPLIT|/CONFIG/SPLIT]`, `hf://FOLDER`, or a
            folder that can only be a dataset: made by `save_to_disk`, or Parquet files beside a
            README.md with `dataset_info`.
    """
    if not text.startswith("hf://"):
        return DatasetName(text, True) if _is_dataset(Path(text)) else None
    if text.startswith(ON_HUB):
        owner, name, *rest = [*text[len(ON_HUB) :].strip("/").split("/"), "", ""][:5]
        rest = [part for part in rest if part]
        if not name or len(rest) > 2:
            raise UsageError(f"{text} is not hf://datasets/OWNER/NAME[/SPLIT|/CONFIG/SPLIT]")
        name, _, revision = name.partition("@")
        config = rest[0] if len(rest) == 2 else None
        return DatasetName(
            f"{owner}/{name}", False, revision or None, config, rest[-1] if rest else None
        )
    folder = Path(text[len("hf://") :]).expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder} of {text} is no folder; hf://datasets/OWNER/NAME is of the hub")
    return DatasetName(str(folder), True)


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made it."""
    one = ((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return (folder / "dataset_dict.json").is_file() or all(one)


def _is_dataset(folder: Path) -> bool:
    if _is_saved(folder):
        return True
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            card = file.read(1 << 16)
    except OSError:
        return False
    return "dataset_info:" in card and any(
        next(place.glob("*.parquet"), None) for place in (folder, folder / "data")
    )


@lru_cache(maxsize=8)
def _opened(dataset: DatasetName) -> dict[str, Any]:
    """Its splits, whose rows have their picture as `_IMAGE`."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading Hugging Face datasets", "hf") from error
    try:
        loaded = _loaded(datasets, dataset)
        splits = dict(loaded) if isinstance(loaded, dict) else {_split_of(loaded, dataset): loaded}
        return {name: _encoded(datasets, rows, dataset) for name, rows in splits.items()}
    except UsageError:
        raise
    except Exception as error:  # it may be anything, from a wrong name to the network
        raise UsageError(
            f"the dataset {dataset.name} cannot be opened: {in_words(error)}"
        ) from error


def _loaded(datasets: Any, dataset: DatasetName) -> Any:
    if dataset.local and _is_saved(Path(dataset.name)):
        return datasets.load_from_disk(dataset.name)
    return datasets.load_dataset(
        dataset.name,
        dataset.config,
        split=dataset.split,
        revision=dataset.revision,
        streaming=True,
    )


def _split_of(rows: Any, dataset: DatasetName) -> str:
    return dataset.split or str(rows.split or "train")


def _encoded(datasets: Any, rows: Any, dataset: DatasetName) -> Any:
    """The rows with their first column of images as `_IMAGE`, and no other."""
    features = rows.features or {}
    found = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not found:
        raise UsageError(
            f"the dataset {dataset.name} has no column of images; it has {', '.join(features)}"
        )
    rows = rows.cast_column(found[0], datasets.Image(decode=False))
    others = [
        name for name, kind in features.items()
        if name in found[1:] or isinstance(kind, datasets.Audio | datasets.Video)
    ]  # fmt: skip
    return rows.remove_columns(others).rename_column(found[0], _IMAGE)


def _rows_of(rows: Any) -> int | None:
    try:
        return len(rows)
    except TypeError:
        info = (rows.info.splits or {}).get(str(rows.split))
        return info.num_examples if info else None
