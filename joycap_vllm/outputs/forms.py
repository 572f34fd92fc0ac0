"""The forms of outputs, and what their files are called."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from joycap_vllm.errors import MissingExtraError, UsageError

Form = Literal["txt", "jsonl", "parquet", "tar", "kohya", "imagefolder", "finetune"]
FORMS: tuple[Form, ...] = get_args(Form)
FILES: dict[str, str] = {
    "jsonl": "captions.jsonl",
    "parquet": "captions.parquet",
    "kohya": "meta.json",
    "imagefolder": "metadata.jsonl",
    "finetune": "finetune.json",
}
_FOLDERS = ("tar", "txt")
_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".txt", ".tar", ".gz"})


def place_of(form: Form, out: Path) -> Path:
    """The file or the folder of an output, absolute, of what users gave.

    Raises:
        UsageError: The name has the suffix of another form, or is that of a file where a folder is
            needed, or of no regular file where a file is.
    """
    if str(out) == "-":
        raise UsageError("--out - would be stdout, where no output goes: name a file or a folder")
    place = _named(form, Path(os.path.abspath(out.expanduser())), out)  # noqa: PTH100 - keeps symlinks
    if place.exists() and form not in _FOLDERS and not place.is_file():
        raise UsageError(f"{place} cannot be written: it is there, and no regular file")
    for folder in folder_of(form, place), *folder_of(form, place).parents:
        if folder.is_dir():
            break
        if os.path.lexists(folder):
            raise UsageError(f"--out {out} cannot be: {folder} is there, and no folder")
    return place


def _named(form: Form, whole: Path, out: Path) -> Path:
    """The file or the folder that users mean by a name."""
    if whole.is_dir():
        return whole if form in _FOLDERS else whole / FILES[form]
    if form in _FOLDERS:
        if whole.exists() or whole.suffix.lower() in _SUFFIXES:
            raise UsageError(f"--format {form} takes a folder as --out, not {out}")
        return whole
    name = FILES[form]
    wanted = Path(name).suffix
    if whole.suffix.lower() != wanted:
        if whole.suffix.lower() in _SUFFIXES:
            raise UsageError(f"--format {form} takes a {wanted} file or a folder, not {out}")
        return whole / name
    if form == "imagefolder" and whole.name != name:
        raise UsageError(f"an image folder's file must be named {name}, not {whole.name}")
    return whole


def folder_of(form: Form, place: Path) -> Path:
    """The folder of an output that `place_of` named."""
    return place if form in _FOLDERS else place.parent


def require(form: Form) -> None:
    """Refuses a form before work begins that cannot be written at its end.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    if form == "parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("--format parquet", "parquet")
