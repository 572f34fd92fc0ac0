"""Forms: prose where tags were asked for, a bare list where prose was, and far too many words."""

from __future__ import annotations

import re

from joycap_vllm.glitch.reading import Reading
from joycap_vllm.prompts import Style

_SENTENCE_END = re.compile(r"[^\W\d_]{2}[.!?](?:\s|\Z)")
_PROSE = 0.25  # share of function words from which a text is sentences; tag lists stay below 0.1
_PROSE_OF_NAMES = 0.15  # the same where several sentences end
_LIST = 0.06
_WORDS_LEAST = 6
_ITEMS_LEAST = 12
_FEW_ITEMS = 4  # from which short phrases such as "hand on own hip" are tags
_ITEM_WORDS = 5
# Models count badly: a limit of 50 words is often answered with 70.
_OVER = 1.5
_OVER_WORDS = 15


def find_wrong_form(reading: Reading, style: Style) -> str:
    """The evidence of an answer in the wrong form, or an empty text."""
    words, share = len(reading.words), reading.sentence_share
    doubtful = share >= _PROSE_OF_NAMES if style == "tags" else style == "prose" and share < _LIST
    if not doubtful or words < _WORDS_LEAST:
        return ""
    text = reading.text.strip().removesuffix(".")
    items = text.count(",") + 1
    ends = len(_SENTENCE_END.findall(text))
    if style == "tags":
        listed = items >= _FEW_ITEMS and words <= _ITEM_WORDS * items and not ends
        if (share >= _PROSE or ends >= 2) and not listed:
            return f"tags were asked for, and {share:.0%} of its words are those of sentences"
        return ""
    if ends:
        return ""
    if items >= _ITEMS_LEAST and words <= 3 * items:
        return f"prose was asked for, and it is a list of {items} items"
    joined = sum("_" in word for word in reading.words)
    if joined >= 0.3 * words:
        return f"prose was asked for, and {joined} of {words} words are tags with underscores"
    return ""


def find_excess(reading: Reading, style: Style, words: int | None) -> str:
    """The evidence of an answer far over the word limit, or an empty text."""
    if words is None:
        return ""
    count = len(reading.words)
    if style == "tags":
        count = min(count, reading.text.count(",") + 1)  # a tag of several words counts once
    if count > _OVER * words + _OVER_WORDS:
        return f"{count} words, where {words} were asked for"
    return ""
