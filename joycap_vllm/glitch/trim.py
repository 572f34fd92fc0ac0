"""The good beginning of a glitched answer, up to its last whole sentence or tag.

A cut-off, a loop, a leak and an overlong text are good up to a point. Ends of sentences or tags are
looked for, the last one up to which the judge finds nothing is taken, and of a loop only the first
round stays.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from joycap_vllm.glitch.judge import judge
from joycap_vllm.glitch.verdict import Glitch
from joycap_vllm.prompts import Style

_MENDABLE: tuple[Glitch, ...] = ("truncated", "repetition", "template_leak", "too_long")
_LEAST_WORDS = 8  # worth keeping; half of the word limit where that is less
_LEAST_TAGS = 4
_LEAST_SHARE = 0.2  # of a text whose rest was worth something too
_ALIKE = 0.75  # share of words that a sentence and its drifted copy have in common
_LOOK_BACK = 64  # sentences or tags among which an earlier round of a loop is looked for

# A full stop with what closes behind it, before a space, the end, or a leak of the chat format.
# Ellipses are left out: what trails off may have been cut there.
_STOP = re.compile(
    r"""(?<![.…!?])[.!?][!?]*["'”’)\]*_]*(?=\s|\Z|<|\[/|(?:assistant|user|system)\b)"""
)
_NO_END = re.compile(  # abbreviations, initials, and the numbers of a list
    r"\n\s*\d+\.|\b(?:mrs?|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|figs?|nos?|vol|approx|ca|cf|inc|ltd|co|corp"
    r"|dept|est|gen|col|lt|sgt|capt|rev|mt|ave|blvd|ft|oz|lbs?|max|min|a\.m|p\.m|u\.s|u\.k"
    r"|(?-i:[A-Z]))\.",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 7
_MARK = re.compile(r'["“”()\n]')
_TAG = re.compile(r"[^,\n]+")
_WORD = re.compile(r"[^\W\d_]+|\d+")


def trim(
    text: str,
    kind: Glitch | None,
    style: Style,
    *,
    prompt: str | None = None,
    words: int | None = None,
) -> str | None:
    """The beginning of a glitched answer that is a caption by itself.

    Args:
        text: The answer.
        kind: What is wrong with it; only cut-offs, loops, leaks and overlong texts can be mended.
        style: What was asked for.
        prompt: What was asked, for the judge.
        words: The word limit that was asked for.

    Returns:
        A beginning of `text`, without the space around it, that ends with a whole sentence or tag
        and has no glitch; None where there is none, or none worth keeping.
    """
    if kind not in _MENDABLE:
        return None
    whole = text.strip()
    is_list = style == "tags" or (style == "mixed" and _looks_like_list(whole))
    ends = tag_ends(whole, cut=kind == "truncated") if is_list else sentence_ends(whole)

    def is_good(count: int) -> bool:
        begin = whole[: ends[count - 1]]
        if kind == "too_long" and words is not None and len(begin.split()) > words:
            return False
        return judge(begin, style=style, finish_reason="stop", prompt=prompt, words=words).ok

    count = _most(is_good, len(ends))
    if count and kind == "repetition":
        count = _without_rounds(whole, ends[:count], fuzzy=not is_list)
    if not count or not is_good(count):
        return None
    kept = whole[: ends[count - 1]]
    least_words = min(_LEAST_WORDS, (words or 2 * _LEAST_WORDS) // 2)
    enough = count >= _LEAST_TAGS if is_list else len(kept.split()) >= least_words
    lost_much = kind in ("truncated", "too_long") and len(kept) < _LEAST_SHARE * len(whole)
    return kept if enough and not lost_much else None


def sentence_ends(text: str) -> list[int]:
    """Offsets behind each whole sentence; none within quotes or round brackets."""
    is_open = _open_at(text)
    return [
        found.end()
        for found in _STOP.finditer(text)
        if not _goes_on(text, found) and not is_open(found.end())
    ]


def tag_ends(text: str, *, cut: bool) -> list[int]:
    """Offsets behind each tag of a list; `cut` leaves out the last one, which may be half."""
    tags = [tag for tag in _TAG.finditer(text) if tag.group().strip()]
    if cut and tags and tags[-1].end() == len(text):
        tags.pop()
    return [tag.start() + len(tag.group().rstrip()) for tag in tags]


def _goes_on(text: str, found: re.Match[str]) -> bool:
    """Whether a stop ends no sentence: after an abbreviation, within or behind a number."""
    stop, end = found.start() + 1, found.end()
    if text[end:].lstrip(" ")[:1].islower() and text[end : end + 1] == " ":
        return True
    if text[stop - 1] != ".":
        return False
    if end == len(text) and text[stop - 2 : stop - 1].isdigit():
        return True
    before = text[max(0, stop - _LONGEST_ABBREVIATION) : stop]
    if stop < _LONGEST_ABBREVIATION:
        before = f"\n{before}"
    return any(m.end() == len(before) for m in _NO_END.finditer(before))


def _open_at(text: str) -> Callable[[int], bool]:
    """Tells of an offset whether a quote or a bracket is open there; a new line closes all."""
    offsets, states = [0], [False]
    quoted, depth = False, 0
    for found in _MARK.finditer(text):
        mark, at = found.group(), found.start()
        if mark == "\n":
            quoted, depth = False, 0
        elif mark in "()":
            depth = max(0, depth + (1 if mark == "(" else -1))
        elif mark == '"':
            inches = not quoted and text[at - 1 : at].isdigit()
            quoted = quoted if inches else not quoted
        else:
            quoted = mark == "“"
        offsets.append(at + 1)
        states.append(quoted or depth > 0)
    return lambda offset: states[bisect_right(offsets, offset) - 1]


def _looks_like_list(text: str) -> bool:
    parts = text.split(",")
    return len(parts) >= _LEAST_TAGS and len(text.split()) <= 5 * len(parts)


def _most(is_good: Callable[[int], bool], count: int) -> int:
    """The largest number up to `count` that is good, if what is too much stays too much."""
    good, bad = 0, count + 1
    if count and is_good(count):
        return count
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if is_good(middle) else (good, middle)
    return good


def _without_rounds(text: str, ends: Sequence[int], *, fuzzy: bool) -> int:
    """How many sentences or tags are left once those that say an earlier one again are dropped."""
    units = [
        tuple("0" if word.isdigit() else word.lower() for word in _WORD.findall(text[start:end]))
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    count = len(units)
    while count > 1 and _stands_in(units[count - 1], units[: count - 1][-_LOOK_BACK:], fuzzy):
        count -= 1
    return count


def _stands_in(unit: tuple[str, ...], earlier: Sequence[tuple[str, ...]], fuzzy: bool) -> bool:
    if unit in earlier:
        return True
    words = set(unit)
    return fuzzy and any(
        len(words & set(other)) >= _ALIKE * len(words | set(other)) for other in earlier
    )
