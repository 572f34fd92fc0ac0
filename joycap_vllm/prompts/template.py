"""Prompts of the user's own: files, weighted choices, and variables that each image fills in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.prompts.prompt import Choice, Prompt

VARIABLES = ("tags", "directory", "stem", "caption")
_VARIABLE = re.compile(r"\{([^\W\d][\w .-]{0,63})\}")
_PASSES = 3  # what is nested deeper was made to be, and is broken as it stands
_SPECIAL = re.compile(r"<\|([^|<>]{0,64})\|>")
_PLACEHOLDER = re.compile(r"<(/?)(image|s)>", re.IGNORECASE)


def variables_of(text: str) -> tuple[str, ...]:
    """The names in braces in `text`, each once, in order: `VARIABLES`, or columns of the images'
    rows. What is neither, for an image, stays as it stands."""
    return tuple(dict.fromkeys(_VARIABLE.findall(text)))


def harmless(text: str) -> str:
    """`text` so that no tokenizer takes a part of it for a special token or an image.

    File names, tags and existing captions come from anywhere; `<|eot_id|>` in one of them would
    end the question, and an image token would break the request.
    """
    for _ in range(_PASSES):
        if not (_SPECIAL.search(text) or _PLACEHOLDER.search(text)):
            break
        text = _PLACEHOLDER.sub(r"\1\2", _SPECIAL.sub(r"\1", text))
    text = _PLACEHOLDER.sub(r"< \1\2>", text)
    return text.replace("<|", "< |").replace("|>", "| >")


def ask(prompt: Prompt, key: str, values: Mapping[str, str]) -> str:
    """The exact text for one image: the choice drawn by its key, variables filled in.

    Args:
        prompt: The prompt.
        key: The image's key; the same key always draws the same choice.
        values: What each variable becomes; of those missing here `VARIABLES` become nothing, and
            others stay as they stand.
    """
    text = _drawn(prompt.choices, key) if prompt.choices else prompt.text
    if not prompt.template:
        return text

    def filled(match: re.Match[str]) -> str:
        name = match.group(1)
        value = values.get(name, "" if name in VARIABLES else None)
        return match.group() if value is None else harmless(value)

    return _VARIABLE.sub(filled, text)


def _drawn(choices: Sequence[Choice], key: str) -> str:
    share = int.from_bytes(sha256(key.encode("utf-8", "replace")).digest()[:8]) / 2**64
    point = share * sum(choice.weight for choice in choices)
    for choice in choices:
        point -= choice.weight
        if point < 0:
            return choice.text
    return choices[-1].text


def load_prompt_file(path: Path) -> list[Choice]:
    """Reads a prompt file: plain text, or upstream's JSON list of texts with weights.

    The JSON is that of JoyCaption's batch-caption.py: a list of strings and of
    `{"prompt": text, "weight": number}`.

    Raises:
        UsageError: The file cannot be read or is of neither form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the prompt file {path} cannot be read: {error}") from error
    if not text.strip():
        raise UsageError(f"the prompt file {path} is empty")
    if path.suffix.lower() != ".json" and not text.lstrip().startswith("["):
        return [Choice(text.strip())]
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if path.suffix.lower() != ".json":
            return [Choice(text.strip())]
        raise UsageError(f"the prompt file {path} is no valid JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"the prompt file {path} must hold a JSON list of prompts")
    return [_choice(row, path) for row in rows]


def _choice(row: Any, path: Path) -> Choice:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UsageError(f'the prompt file {path}: each row is a text or {{"prompt", "weight"}}')
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
        raise UsageError(f"the prompt file {path}: a weight must be a number above 0")
    return Choice(row["prompt"], float(weight))
