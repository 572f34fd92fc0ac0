"""Paths as keys: text that any file can hold, and back."""

from __future__ import annotations

import os
import re
from pathlib import Path


def key_of(path: Path, root: Path) -> str:
    """`path` relative to `root` as text; bytes that are no UTF-8 become `\\xNN`.

    A name that holds such a text by itself gets a second backslash, so that keys stay unique.
    """
    try:
        return escaped(path.relative_to(root))
    except ValueError:
        return escaped(path)


def path_of(key: str, root: Path) -> Path:
    """The file that `key_of` gave this key."""
    return root / unescaped(key)


def escaped_name(name: str) -> str:
    """A file's name as `escaped` writes it; quick, since it is asked for millions of them."""
    return name if name.isascii() and "\\x" not in name else escaped_text(name)


def escaped(path: Path) -> str:
    """A path as text that any file can hold, as `key_of` writes it."""
    return escaped_text(path.as_posix())


def escaped_text(text: str) -> str:
    """As `escaped`, for what is a path or a URL."""
    doubled = re.sub(r"\\(?=x[89a-f][0-9a-f])", r"\\\\", text)
    return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescaped(text: str) -> Path:
    """The path that `escaped` gave this text."""
    return Path(unescaped_text(text))


def unescaped_text(text: str) -> str:
    """The text that `escaped_text` gave this one."""

    def meant(found: re.Match[bytes]) -> bytes:
        doubled, digits = found.groups()
        return rb"\x" + digits if doubled else bytes([int(digits, 16)])

    return os.fsdecode(re.sub(rb"\\(\\?)x([89a-f][0-9a-f])", meant, text.encode()))
