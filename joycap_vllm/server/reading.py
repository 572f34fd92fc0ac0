"""What users write on the command line, read into the options' values."""

from __future__ import annotations

from pathlib import Path

from joycap_vllm.errors import UsageError


def read_gpus(text: str | None) -> tuple[int, ...] | None:
    """`0,1` as (0, 1); nothing or `all` means all."""
    if text is None or text.strip().lower() in {"", "all"}:
        return None
    try:
        indexes = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--gpus takes numbers as in 0,1, not {text!r}") from None
    if len(set(indexes)) < len(indexes):
        raise UsageError(f"--gpus names a GPU twice: {text}")
    return indexes


def read_replicas(text: str) -> int | None:
    """A number from 1, or `auto` for None."""
    if text.strip().lower() == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--replicas takes auto or a number from 1, not {text!r}")
    return int(text)


def read_loras(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """`NAME=PATH` as pairs."""
    pairs = []
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise UsageError(f"--lora takes NAME=PATH, not {text!r}")
        pairs.append((name, path))
    return tuple(pairs)


def read_api_key(file: Path | None) -> str | None:
    """The key in a file, without the line's end."""
    if file is None:
        return None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the API key could not be read: {error}") from error
    if not key or not key.isprintable() or " " in key:
        raise UsageError(f"{file} must hold one key on one line")
    return key
