"""What a caption was meant to be, told by its looks."""

from __future__ import annotations

import re

from joycap_vllm.prompts import Style

_SENTENCE_ENDS = re.compile(r"[.!?…][\"'”’)]*(?:\s+[\"'“‘(]*[A-Z]|\s*\Z)")
_TAG_WORDS = 3.0  # words of a tag, at most, on average
_LONGEST_TAG = 6
_PHRASE_WORDS = 7.0


def guess_style(text: str) -> Style:
    """Tags for a list of short items between commas, mixed for one of longer phrases, else prose.

    Sentences make prose of any list; so does a capital at the start of longer phrases, since a
    sentence that breaks off looks like that.
    """
    items = [item for item in re.split(r"[,\n]", text) if item.strip()]
    if len(items) < 2 or _SENTENCE_ENDS.search(text):
        return "prose"
    lengths = [len(item.split()) for item in items]
    words = sum(lengths) / len(items)
    if words <= _TAG_WORDS:
        return "tags" if max(lengths) <= _LONGEST_TAG else "mixed"
    if len(items) > 2 and words <= _PHRASE_WORDS and not text.lstrip()[:1].isupper():
        return "mixed"
    return "prose"
