"""Loops: the same stretch of words again and again, exactly or with small changes.

All of it is linear in the text's length: three words in a row are looked up where they last stood,
and a run of look-ups at one distance is a stretch that repeats with that period.
"""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"\w+|([^\w\s])\1*")  # a ruled line is one word
_CHARACTER = re.compile(r"([^\s\-=_.*~#])\1{15,}")
_RULER = re.compile(r"([\-=_.*~#])\1{79,}")
_GRAM = 3
_LONG_ENOUGH = 40  # tokens from which shares of repeated stretches mean something


def find_loop(text: str) -> str:
    """The evidence of a loop in words, or an empty text."""
    found = _CHARACTER.search(text) or _RULER.search(text)
    if found:
        return f"{found.group(1)!r} stands {len(found.group())} times in a row"
    tokens = [found.group().lower() for found in _WORD.finditer(text)]
    return _exact(tokens) or _whole_twice(tokens) or _repeated_items(text) or _drifting(tokens)


def _needed(period: int) -> int:
    """How often a stretch must stand in a row, by its length in tokens, to be no style figure."""
    if period == 1:
        return 8
    if period <= 3:
        return 6
    return 4 if period <= 8 else 3


def _exact(tokens: list[str]) -> str:
    last: dict[tuple[str, ...], int] = {}
    distance = run = 0
    for at in range(len(tokens) - _GRAM + 1):
        gram = tuple(tokens[at : at + _GRAM])
        gap = at - last.get(gram, at)
        last[gram] = at
        run = run + 1 if gap and gap == distance else (1 if gap else 0)
        distance = gap
        if not gap:
            continue
        covered = run + _GRAM - 1 + gap
        if covered >= gap * _needed(gap):
            start = at + _GRAM - covered
            unit = " ".join(tokens[start : start + gap])[:80]
            return f"{unit!r} repeats from word {start + 1} on"
    return ""


def _whole_twice(tokens: list[str]) -> str:
    words = [token for token in tokens if token[0].isalnum()]
    half, odd = divmod(len(words), 2)
    if odd or half < 8 or words[:half] != words[half:]:
        return ""
    return f"all of it stands there twice ({half} words each)"


def _repeated_items(text: str) -> str:
    items = [item.strip().lower() for item in text.split(",")]
    items = [item for item in items if item and len(item) <= 60]
    if len(items) < 10:
        return ""
    item, count = Counter(items).most_common(1)[0]
    if count >= 5:
        return f"the item {item!r} stands there {count} times"
    doubled = 1 - len(set(items)) / len(items)
    return f"{doubled:.0%} of the items are repeats" if doubled > 0.4 else ""


def _drifting(tokens: list[str]) -> str:
    size = 4
    count = len(tokens) - size + 1
    if count < _LONG_ENOUGH:
        return ""
    different = len({tuple(tokens[i : i + size]) for i in range(count)})
    share = 1 - different / count
    return f"{share:.0%} of its four-word stretches are repeats" if share > 0.5 else ""
