"""Loops: the same stretch again and again, exactly or with small changes, anywhere in a text.

Everything is linear in the text's length. Numbers count as alike, so that a list that counts is
seen as the loop it is; where nothing but numbers and signs repeats, as in tables, far more repeats
are needed. The thresholds stand between the longest repeats of good captions, lyrics, charts and
shop listings, and the shortest of real loops (scripts/bench judge shows both).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

# Chinese and Japanese are written without spaces: there each character is a word.
_IDEOGRAM = "\u3040-\u30ff\u3400-\u9fff"
_SIGNS = r"\d+|-+|=+|_+|\.+|\*+|~+|#+|!+|\?+|[^\w\s]"
_TOKEN = re.compile(rf"\s*([^\W\d_{_IDEOGRAM}]+|[{_IDEOGRAM}]|{_SIGNS})")
_TOKEN_ASCII = re.compile(rf"\s*([a-z]+|{_SIGNS})")
_RULER = 80  # characters of a line that a text ends with; with words after it, it is a ruled line
_CHARACTER = re.compile(r"([^\d\-=_.*~#])\1{29,}|(\d)\2{23,}")  # shouts have twenty
_GLUED = re.compile(r"(?!(\w)\1)(\w{2,40}?)\2{4,}")
_LONG = 16  # characters, from which a token may be a loop of its own
_UNIT = re.compile(r"(?<=[.!?])\s+|\n+")
_LEAD = re.compile(r"^[\s\d#*().:\-•\[\]]+")
_LABEL = re.compile(r"^(?:caption|answer|description|response|output|text) ?\d*:\s+")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_NO_VERSE = re.compile(r"[\d:*#|]")
_QUOTED = re.compile(r'"[^"\n]{0,100}+"|“[^“”\n]{0,100}+”')
_UNIT_LETTERS = 12  # of a sentence or line; shorter ones, and rows of numbers, may come again
_WINDOW = 64  # tokens, about as many as two or three sentences hold
_OFTEN = 3  # times that a stretch of three tokens stood there before
_LONG_GRAM = 8
_COMES_TO_REST = 4  # tokens after a row
_ALIKE = 12  # phrases in a row that differ in one word
_VOCABULARY = (30, 0.25)  # items of a list, and the least share of different words in it
_SPLIT = re.compile(r"(?<=[.!?;,])\s+|\n+")
_CROWDED = 0.7  # share of a window
_Gram = tuple[str, str, str]


def find_loop(text: str, *, items: bool = False) -> str:
    """The evidence of a loop in words (what repeats, how often, from where), or an empty text.

    Writing that is seen in a picture and quoted may repeat itself.

    Args:
        text: The text.
        items: Whether it may be a list of tags, of which none should come again and again.
    """
    found = _find(text, items)
    if found and _QUOTED.search(text) and not _find(_QUOTED.sub('""', text), items):
        return ""
    return found


def _find(text: str, items: bool) -> str:
    lower = text.lower().strip()
    raw = (_TOKEN_ASCII if lower.isascii() else _TOKEN).findall(lower)
    tokens = raw
    if any(digit in lower for digit in "0123456789"):
        tokens = ["0" if token[0].isdigit() else token for token in raw]
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    known = len(grams) - len(set(grams))  # most texts repeat too little for what follows
    return (
        _in_a_token(raw)
        or (_in_a_row(raw, grams, 3) if known >= 3 else "")
        or (_in_a_row(raw, _long_grams(tokens), _LONG_GRAM) if known >= 32 else "")
        or (_units(lower) if known >= min(30, 0.2 * len(grams)) else "")
        or (_crowded(grams, lower) if known >= _CROWDED * _WINDOW else "")
        or (_items(lower) if items else _alike(grams, lower) if known >= 2 * _ALIKE else "")
        or _ruler(raw)
    )


def _in_a_token(raw: Sequence[str]) -> str:
    if max(map(len, raw), default=0) < _LONG:
        return ""
    for at, token in enumerate(raw):
        if len(token) >= _LONG:
            found = _CHARACTER.search(token) or _GLUED.search(token)
            if found and len(found.group()) >= _LONG:
                unit = found.group(2) or found.group(1)
                return _evidence(unit, len(found.group()) / len(unit), at)
    return ""


def _ruler(raw: Sequence[str]) -> str:
    last = next((token for token in reversed(raw) if token[0].isalnum() or len(token) > 3), "")
    if len(last) < _RULER or last[0].isalnum():
        return ""
    return f"it ends in {last[0]!r}, {len(last)} times"


def _evidence(unit: str, count: float, at: int) -> str:
    shown = unit if len(unit) <= 80 else f"{unit[:77]}..."
    times = f"{count:.1f}".removesuffix(".0")
    return f"{shown!r} stands {times} times in a row from word {at + 1} on"


def _long_grams(tokens: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(_LONG_GRAM)), strict=False))


def _in_a_row(raw: Sequence[str], grams: Sequence[tuple[str, ...]], size: int) -> str:
    """A stretch that follows itself: each few tokens are looked up where they last stood, and a
    run of look-ups at one distance is a stretch that repeats with that period.

    Where the stretch holds the same few words twice, more of them must be looked up together.
    """
    last: dict[tuple[str, ...], int] = {}
    distance = run = words = numbers = 0
    exact = False
    for at, gram in enumerate(grams):
        before = last.get(gram)
        last[gram] = at
        if before is None:
            distance = 0
            continue
        gap = at - before
        end = at + size
        if gap == distance:
            run += 1
            exact = exact and raw[end - 1] == raw[end - 1 - gap]
        else:
            distance, run, words = gap, 1, -1
            exact = raw[at:end] == raw[before : before + size]
        covered = run + size - 1 + gap
        if covered < 2 * gap:
            continue
        start = end - covered
        if words < 0:
            words = sum(token[0].isalpha() for token in raw[start : start + gap])
            numbers = sum(token[0].isdigit() for token in raw[start : start + gap])
        everything = covered >= 0.9 * len(raw)
        needed = _needed(gap, words, numbers, exact=exact, everything=everything)
        if gap == 1 and words and len(raw[start]) <= 4:
            needed += 2  # "very, very" and "ha ha" go further
        if gap <= 4 and words and not everything and len(raw) - end > _COMES_TO_REST:
            needed *= 1.7  # what comes to rest may be a pattern, a chant, a chain of beads
        if covered >= gap * needed:
            return _evidence(" ".join(raw[start : start + gap]), covered / gap, start)
    return ""


def _needed(period: int, words: int, numbers: int, *, exact: bool, everything: bool) -> float:
    """How often a stretch must stand in a row to be no figure of style, chart or table.

    Args:
        period: Its tokens.
        words: Those of them that are words.
        numbers: Those of them that are numbers.
        exact: Whether the repeats are equal, numbers and all.
        everything: Whether it is all of the text.
    """
    if not words:
        if period <= 2:
            return 60 if numbers else 40
        return 40 if not exact else 24 if period <= 5 else 8
    if (period == words and period >= 6) or (everything and period >= 8):
        return 2  # two whole phrases with neither comma nor number between them, or all of it twice
    if not exact:
        few = 20 if period <= 3 else 9 if period <= 5 else 8 if period <= 8 else 3.9
        return few if words >= period / 3 else 12
    if period <= 3:
        return (6, 5, 3.6)[period - 1]
    return 3.4 if period <= 8 else 2.6 if period <= 15 else 2.3


def _units(lower: str) -> str:
    """Sentences and lines that come back with others between them."""
    units = [_plain(unit) for unit in _UNIT.split(lower)]
    verse = _is_verse(lower.split("\n"))
    units = [unit for unit in units if sum(map(str.isalpha, unit)) >= _UNIT_LETTERS]
    if not units:
        return ""
    begin, times = Counter(" ".join(unit.split()[:6]) for unit in units).most_common(1)[0]
    if times >= max(6, 0.4 * len(units)) and begin.count(" ") == 5 and "0" not in begin:
        return f"{times} sentences begin with {begin!r}"
    unit, count = max(Counter(units).items(), key=lambda item: (item[1] - 1) * len(item[0]))
    share = 1 - len("".join(set(units))) / len("".join(units))
    if share >= (0.6 if verse else 0.3) or (count >= 3 and unit.count(" ") >= 11 and not verse):
        return f"{unit[:77]!r} stands there {count} times; {share:.0%} of the text are repeats"
    return ""


def _plain(unit: str) -> str:
    return _LABEL.sub("", _LEAD.sub("", _NUMBER.sub("0", unit.strip())))


def _is_verse(lines: Sequence[str]) -> bool:
    """Whether it is set in short lines, such as a song with its refrain."""
    full = [line for line in lines if line.strip()]
    short = sum(2 <= line.count(" ") <= 12 and not _NO_VERSE.search(line) for line in full)
    return len(full) >= 8 and short >= 0.6 * len(full)


def _crowded(grams: Sequence[_Gram], lower: str) -> str:
    """A window in which most stretches of three tokens stood there several times before."""
    counts = Counter(grams)
    if sum(count - _OFTEN for count in counts.values() if count > _OFTEN) < _CROWDED * _WINDOW:
        return ""
    most = 0.97 if _is_verse(lower.split("\n")) else _CROWDED
    seen: Counter[_Gram] = Counter()
    known: list[bool] = []
    inside = 0
    for at, gram in enumerate(grams):
        seen[gram] += 1
        known.append(seen[gram] > _OFTEN and any(token[0].isalpha() for token in gram))
        inside += known[at]
        if at >= _WINDOW:
            inside -= known[at - _WINDOW]
        if inside >= most * _WINDOW:
            often, times = counts.most_common(1)[0]
            return (
                f"{' '.join(often)!r} stands there {times} times; from word "
                f"{max(at + 4 - _WINDOW, 1)} on {inside / _WINDOW:.0%} of the phrases are repeats"
            )
    return ""


def _alike(grams: Sequence[_Gram], lower: str) -> str:
    """Phrases in a row that differ in one word: nobody lists a dozen things so."""
    if Counter(grams).most_common(1)[0][1] < _ALIKE * 2 // 3:
        return ""
    phrases = [phrase.split() for phrase in _SPLIT.split(lower)]
    run = 1
    for one, other in pairwise(phrases):
        same = [a for a, b in zip(one, other, strict=False) if a == b]
        plain = len(one) == len(other) >= 4 and not any(map(str.isdigit, "".join(other)))
        words = sum(token[0].isalpha() for token in same)
        alike = plain and words >= 2 and len(other) - len(same) <= max(1, len(other) // 4)
        run = run + 1 if alike else 1
        if run >= _ALIKE:
            return f"{run} phrases in a row differ in one word, such as {' '.join(other)[:60]!r}"
    return ""


def _items(lower: str) -> str:
    items = [item.strip() for item in lower.split(",")]
    items = [item for item in items if item and len(item) <= 60 and not item.isdigit()]
    if len(items) < 10:
        return ""
    item, count = Counter(items).most_common(1)[0]
    if count >= 6 and count >= 0.2 * len(items):
        return f"the item {item!r} stands there {count} times"
    doubled = 1 - len(set(items)) / len(items)
    if doubled > 0.55:
        return f"{doubled:.0%} of the items are repeats"
    words = _WORD.findall(lower)
    least, share = _VOCABULARY
    if len(items) >= least and len(set(words)) < share * len(words):
        return f"{len(items)} items are put together from {len(set(words))} words"
    return ""
