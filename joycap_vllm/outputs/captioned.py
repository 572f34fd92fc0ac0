"""An image with its captions, as exports hand it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

NO_CAPTION = "no caption"
NO_FILE = "no file of this machine"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt of the job.

    Args:
        name: Its name.
        text: What is asked, where that is the same for all images.
        tags: Whether its answers are lists of tags.
    """

    name: str
    text: str = ""
    tags: bool = False


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image of which the journal tells.

    Args:
        key: Its key.
        captions: By prompt what is handed out as a caption, on one line and dressed as in
            sidecars; nothing of the others.
        records: The latest record of each prompt that has one, as the journal's lines have it.
        path: Its file, absolute, where it is one of this machine.
    """

    key: str
    captions: Mapping[str, str]
    records: Mapping[str, Mapping[str, Any]]
    path: Path | None = None


# Columns that each prompt has, and the fields of records that they tell.
PROMPT_COLUMNS = {
    "caption": "caption",
    "outcome": "outcome",
    "glitch": "glitch",
    "why": "why",
    "fingerprint": "fp",
}
# Writes an image; returns why it is left out, or nothing where it is not.
Write = Callable[[CaptionedImage], str]


def columns(prompts: Sequence[str], name: str) -> dict[str, str]:
    """The column that tells `name` of each prompt: the first prompt has the plain name, others
    have their own behind it, as sidecars do."""
    first, *others = prompts
    return {first: name} | {prompt: f"{name}_{prompt}" for prompt in others}


def row_of(image: CaptionedImage, prompts: Sequence[str]) -> dict[str, Any]:
    """All that the journal tells of an image, flat, with the same columns for every image.

    Texts are never null but for captions: readers that guess a column's type from the first rows
    would take a column without any text for one without a type.
    """
    records = [image.records[prompt] for prompt in prompts if prompt in image.records]
    row: dict[str, Any] = {"key": image.key, "path": _text_of(image.path)}
    for column, prompt, name in _told(tuple(prompts)):
        if name == "caption":
            row[column] = image.captions.get(prompt)
        elif prompt in image.records:
            row[column] = image.records[prompt].get(name) or ""
        else:
            row[column] = "open" if name == "outcome" else ""
    facts: Mapping[str, Any] = next((r["image"] for r in records if r.get("image")), {})
    row["model"] = next((r["model"] for r in records if r.get("model")), "")
    row["attempts"] = sum(len(r.get("attempts") or ()) for r in records)
    for name in ("width", "height", "bytes"):
        row[name] = facts.get(name)
    row["sha256"] = facts.get("sha256") or ""
    row["recorded"] = max((float(r.get("t") or 0) for r in records), default=0.0)
    return row


def _text_of(path: Path | None) -> str:
    """The path; empty where no text can hold it."""
    text = "" if path is None else str(path)
    return text if is_text(text) else ""


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def _told(prompts: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """Columns that each prompt has: their names, the prompt's, and the record's field."""
    return tuple(
        (column, prompt, field)
        for name, field in PROMPT_COLUMNS.items()
        for prompt, column in columns(prompts, name).items()
    )


def texts_of(image: CaptionedImage, prompts: Sequence[Asked]) -> Iterator[tuple[str, str]]:
    """What was asked about an image and its caption, for each prompt that has one."""
    for prompt in prompts:
        caption = image.captions.get(prompt.name)
        if caption is not None:
            yield image.records[prompt.name].get("asked") or prompt.text, caption
