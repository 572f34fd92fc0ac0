"""What several judges read out of a text, each worked out once."""

from __future__ import annotations

import re
from functools import cached_property

_QUOTED = re.compile(r'"[^"\n]{0,400}+"')
_SINGLE = re.compile(r"(?<![\w'])'(?:[^'\n]|'(?=\w)){2,200}'(?!\w)")
_SINGLE_MARKS = (" '", "\n'", "('")  # an apostrophe opens nothing
_OTHERS = {  # by themselves, since a pattern that begins with a letter is found faster
    pair[0]: re.compile(rf"{pair[0]}[^{pair}\n]{{0,400}}+{pair[1]}")
    for pair in ("“”", "«»", "「」", "‘’")
}
FOREIGN = (
    "\u0370-\u1aff\u1f00-\u1fff\u3040-\uabff\uac00-\ud7ff"  # letters of other scripts than Latin
)
FOREIGN_LETTER = re.compile(f"[{FOREIGN}]")
_LEAST = 3  # words outside of quotations
_POST = re.compile(r"(?<!\w)#[A-Za-z]\w+|[\U0001f300-\U0001faff\u2600-\u27bf]")
# The words that hold English sentences together; a tag list has few of them.
_WORDS = (
    "the a an of in on at to and or with is are was were be it its this that for from by as his her"
    " their there he she they has have had which not into over under near while but you your i we"
    " our one two some other"
)
FUNCTION_WORDS = frozenset(_WORDS.split())


class Reading:
    """A text with what is read out of it.

    Args:
        text: The text.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lower(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    @cached_property
    def words(self) -> list[str]:
        """What stands between spaces, in lower case, with its signs."""
        return self.lower.split()

    @cached_property
    def unquoted(self) -> str:
        """The text with quoted stretches emptied: what is read in a picture is not said by the
        model. What is nothing but a quotation is said by it."""
        parts = self.text.split('"')
        if len(parts) % 2 and all(len(p) <= 400 and "\n" not in p for p in parts[1::2]):
            rest = '""'.join(parts[::2])
        else:
            rest = _QUOTED.sub('""', self.text)
        for mark, quoted in _OTHERS.items():
            if mark in rest:
                rest = quoted.sub('""', rest)
        if any(mark in rest for mark in _SINGLE_MARKS):
            rest = _SINGLE.sub('""', rest)
        return rest if len(rest.replace('""', " ").split()) >= _LEAST else self.text

    @cached_property
    def is_foreign(self) -> bool:
        """Whether it holds a letter of another script than Latin."""
        return not self.text.isascii() and bool(FOREIGN_LETTER.search(self.text))

    @cached_property
    def is_post(self) -> bool:
        """Whether it is written as a post, with hashtags or emojis: posts say "I", and "sorry"."""
        return bool(_POST.search(self.text))

    @cached_property
    def sentence_share(self) -> float:
        """The share of English function words among its words, 0 to 1: about 0.4 in prose."""
        return sum(map(FUNCTION_WORDS.__contains__, self.words)) / max(len(self.words), 1)


def shown(text: str, most: int = 60) -> str:
    """A stretch of text as evidence: one line, quoted, not too long."""
    line = " ".join(text.split())
    return repr(line if len(line) <= most else f"{line[: most - 3]}...")
