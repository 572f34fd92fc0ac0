"""Brace patterns as shells and WebDataset write them: `{000..099}.tar`, `{a,b}/x.tar`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from joycap_vllm.errors import UsageError

_MOST = 100_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})(?:\.\.(\d{1,18}))?")


def expanded(pattern: str) -> list[str]:
    """All names that a pattern stands for, in order; braces that say nothing stay as they are.

    Raises:
        UsageError: They are over a hundred thousand.
    """
    names = list(itertools.islice(_expanded(pattern, 0), _MOST + 1))
    if len(names) > _MOST:
        raise UsageError(f"{pattern} stands for more than {_MOST} names")
    return list(dict.fromkeys(names))


def _expanded(pattern: str, start: int) -> Iterator[str]:
    found = _INNERMOST.search(pattern, start)
    if found is None:
        yield pattern
        return
    choices = _choices(found[1])
    if choices is None:
        yield from _expanded(pattern, found.end())
        return
    for choice in choices:
        yield from _expanded(pattern[: found.start()] + choice + pattern[found.end() :], 0)


def _choices(inside: str) -> Iterator[str] | None:
    """What the inside of braces stands for; None where it is plain text."""
    if "," in inside:
        return iter(inside.split(","))
    if (found := _RANGE.fullmatch(inside)) is None:
        return None
    first, last, step = found.groups()
    padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    way = max(1, int(step or 1)) * (1 if int(first) <= int(last) else -1)
    return (f"{n:0{width}}" for n in range(int(first), int(last) + (1 if way > 0 else -1), way))
