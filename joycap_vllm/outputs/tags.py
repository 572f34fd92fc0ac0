"""What taggers do to a list of tags before it is written: spelling, order, what to leave out.

Nothing here is on by default. A list is split at commas and line breaks, which no booru tag holds;
everything else in a tag (escaped parentheses, weights, prefixes such as `artist:`) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_BREAK = re.compile(r"\s*(?:,\s*|[\n\r\v\f\x85\u2028\u2029]\s*)+")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z ]*:")
_WORD = re.compile(r"[^\W_]{2}")
_FULL_STOP = re.compile(r"(?<=[^\W_])\.\s*\Z")


@dataclass(frozen=True, slots=True)
class TagOptions:
    """How a list of tags is changed; the defaults change nothing.

    Tags are compared as people read them: capitals, `_` for a space, and the backslash of an
    escaped parenthesis make no difference.

    Args:
        underscores: `spaces` writes `long_hair` as `long hair`, and leaves `^_^` alone.
        separator: What stands between tags; None keeps the answer's own.
        first: Tags that go to the front where they are there, in this order.
        undesired: Tags that are dropped.
        dedupe: Whether of equal tags only the first is kept.
    """

    underscores: Literal["keep", "spaces"] = "keep"
    separator: str | None = None
    first: tuple[str, ...] = ()
    undesired: tuple[str, ...] = ()
    dedupe: bool = False


def polish_tags(text: str, options: TagOptions) -> str:
    """The list with all that `options` ask for; empty where no tag is left."""
    if options == TagOptions():
        return text
    tags = split_tags(_FULL_STOP.sub("", text))
    unwanted = {_meaning(tag) for tag in options.undesired}
    tags = [tag for tag in tags if _meaning(tag) not in unwanted]
    if options.dedupe:
        once: dict[str, str] = {}
        for tag in tags:
            once.setdefault(_meaning(tag), tag)
        tags = list(once.values())
    places = {_meaning(tag): place for place, tag in enumerate(options.first)}
    tags.sort(key=lambda tag: places.get(_meaning(tag), len(options.first)))
    if options.underscores == "spaces":
        tags = [_spaced(tag) for tag in tags]
    return (_separator_of(text) if options.separator is None else options.separator).join(tags)


def split_tags(text: str) -> list[str]:
    """The tags of a list, without the white space around them and without empty ones."""
    return [tag for part in _BREAK.split(text) if (tag := part.strip())]


def read_tags(values: Iterable[str]) -> tuple[str, ...]:
    """Tags as users give them: each value one tag, or several with commas between."""
    return tuple(tag for value in values for tag in split_tags(value))


def _separator_of(text: str) -> str:
    found = _BREAK.search(text.strip())
    if found is None or re.search(r"[^ ,]", found.group()) or found.group().count(",") > 1:
        return ", "
    return found.group()


def _meaning(tag: str) -> str:
    plain = re.sub(r"\\(?=[()\[\]{}])", "", tag).replace("_", " ")
    return re.sub(r":\s+", ":", " ".join(plain.split())).casefold()


def _spaced(tag: str) -> str:
    """A tag with spaces; a face such as `>_<` or `(o)_(o)` has no two letters in a row."""
    prefix = _PREFIX.match(tag)
    name = tag[prefix.end() :] if prefix else tag
    if not _WORD.search(name):
        return tag
    return (prefix.group() if prefix else "") + name.replace("_", " ")
