"""What variables of a prompt become for one image: from its row, its name, and files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from joycap_vllm.job.plan import PlannedImage
from joycap_vllm.prompts import VARIABLES, Prompt, variables_of
from joycap_vllm.sources import NO_COLUMNS, SourceImage

_TAGS = ("tags", "tag_string")  # the second as Danbooru's own tables name it
_CAPTIONS = ("caption", "text", "txt")


def values_for(planned: PlannedImage, prompt: Prompt) -> dict[str, str]:
    """The values of a prompt's variables for an image of a job."""
    return values_of(planned.image, prompt, next(iter(planned.target.files.values()), None))


def values_of(image: SourceImage, prompt: Prompt, sidecar: Path | None = None) -> dict[str, str]:
    """The values of a prompt's variables.

    A column of the image's row comes before what its name and the files beside it tell; of a row,
    a column that is missing or null is empty. An image without a row leaves unknown names alone.
    """
    if not prompt.template:
        return {}
    texts = [prompt.text, *(choice.text for choice in prompt.choices)]
    wanted = {name for text in texts for name in variables_of(text)}
    columns = image.columns
    values = {} if columns is NO_COLUMNS else dict.fromkeys(wanted, "")
    folder, _, name = image.key.rpartition("/")
    values |= {"stem": PurePosixPath(name).stem, "directory": folder.rpartition("/")[2]}
    if wanted & {"caption", "tags"}:
        values["caption"] = _first(columns, _CAPTIONS) or _sidecar(image, sidecar)
        tags = _first(columns, _TAGS) or _tags_beside(image.path)
        values["tags"] = tags or values["caption"]
    return values | {name: as_text(columns[name]) for name in wanted if name in columns}


def unknown_names(planned: PlannedImage, prompt: Prompt) -> tuple[str, ...]:
    """Names in a prompt's braces that stand for nothing that this image has."""
    texts = [prompt.text, *(choice.text for choice in prompt.choices)]
    wanted = dict.fromkeys(name for text in texts for name in variables_of(text))
    return tuple(
        name for name in wanted if name not in VARIABLES and name not in planned.image.columns
    )


def as_text(value: Any) -> str:
    """A cell of a row as part of a prompt: lists with commas, objects as JSON, null as nothing."""
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | tuple):
        return ", ".join(text for each in value if (text := as_text(each)))
    if isinstance(value, Mapping):
        return orjson.dumps(dict(value), default=str).decode()
    return str(value)


def _first(columns: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := as_text(columns.get(name)))), "")


def _sidecar(image: SourceImage, path: Path | None) -> str:
    if path is None and image.path is not None:
        path = image.path.with_suffix(".txt")
    return "" if path is None else _text_of(path)


def _tags_beside(path: Path | None) -> str:
    return "" if path is None else _text_of(path.with_suffix(".tags"))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
