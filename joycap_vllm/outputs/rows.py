"""Captions in text files: JSONL, kohya's metadata, Hugging Face's image folders, fine-tuning."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.outputs.captioned import (
    NO_CAPTION,
    NO_FILE,
    Asked,
    CaptionedImage,
    Write,
    columns,
    is_text,
    row_of,
    texts_of,
)
from joycap_vllm.outputs.files import replacing

NOT_BELOW = "not below the folder of the file"
NO_NAME = "a name that the format cannot hold"


@contextmanager
def jsonl_writer(path: Path, prompts: Sequence[Asked]) -> Iterator[Write]:
    """One object a line for every image, captioned or not: the columns of `row_of`.

    Raises:
        OutputError: The file cannot be written.
    """
    names = [prompt.name for prompt in prompts]
    with replacing(path, make_folders=True) as file:

        def write(image: CaptionedImage) -> str:
            file.write(orjson.dumps(row_of(image, names), option=orjson.OPT_APPEND_NEWLINE))
            return ""

        yield write


@contextmanager
def kohya_writer(path: Path, prompts: Sequence[Asked]) -> Iterator[Write]:
    """The metadata of kohya's sd-scripts (`--in_json`): captions and tags by image.

    The keys are whole paths: those are found by every version of its readers, whatever
    `--train_data_dir` says. The first prompt that asks for prose gives `caption`, the first that
    asks for tags gives `tags`; the trainer puts them together.

    Raises:
        OutputError: The file cannot be written.
    """
    fields = {"caption": [p for p in prompts if not p.tags], "tags": [p for p in prompts if p.tags]}
    wanted = {name: some[0].name for name, some in fields.items() if some}
    with replacing(path, make_folders=True) as file:
        before = b"{\n"

        def write(image: CaptionedImage) -> str:
            nonlocal before
            found = {f: image.captions[p] for f, p in wanted.items() if p in image.captions}
            if not found:
                return NO_CAPTION
            if image.path is None:
                return NO_FILE
            file.write(before + _json(str(image.path)) + b": " + _json(found | _size(image)))
            before = b",\n"
            return ""

        yield write
        file.write(b"{}\n" if before == b"{\n" else b"\n}\n")


@contextmanager
def imagefolder_writer(path: Path, prompts: Sequence[Asked]) -> Iterator[Write]:
    """The `metadata.jsonl` of a Hugging Face image folder: `file_name`, `text`, and `text_NAME`
    for the other prompts.

    Its readers take only images below the folder that it is in, and none without a text.

    Raises:
        OutputError: The file cannot be written.
    """
    names = columns([prompt.name for prompt in prompts], "text")
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100 - keeps symlinks
    with replacing(path, make_folders=True) as file:

        def write(image: CaptionedImage) -> str:
            texts = {column: image.captions.get(prompt) for prompt, column in names.items()}
            if texts["text"] is None:
                return NO_CAPTION
            if image.path is None:
                return NO_FILE
            if not image.path.is_relative_to(folder):
                return NOT_BELOW
            name = image.path.relative_to(folder).as_posix()
            if "\\" in name or not is_text(name):
                return NO_NAME
            row = {"file_name": name} | texts
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            return ""

        yield write


@contextmanager
def finetune_writer(path: Path, prompts: Sequence[Asked], root: Path) -> Iterator[Write]:
    """The data of JoyCaption's own fine-tuning: a question, its answer and one image each.

    Args:
        path: The file.
        prompts: The job's prompts.
        root: The folder that images are named relative to (`--images-path` of the training);
            those outside are named by their whole path.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path, make_folders=True) as file:
        before = b"[\n"

        def write(image: CaptionedImage) -> str:
            nonlocal before
            if not image.captions:
                return NO_CAPTION
            if image.path is None:
                return NO_FILE
            inside = image.path.is_relative_to(root)
            name = str(image.path.relative_to(root) if inside else image.path)
            for question, answer in texts_of(image, prompts):
                messages = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
                file.write(before + _json({"messages": messages, "images": [name]}))
                before = b",\n"
            return ""

        yield write
        file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _size(image: CaptionedImage) -> dict[str, list[int]]:
    """Width and height as stored, which is how the trainer reads images; spares it to open each."""
    for record in image.records.values():
        facts = record.get("image") or {}
        if facts.get("width") and facts.get("height"):
            return {"image_size": [facts["width"], facts["height"]]}
    return {}


def _json(value: Any) -> bytes:
    """JSON; a path with bytes that are no UTF-8 becomes what Python's reader makes a path of."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()
