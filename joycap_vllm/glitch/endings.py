"""Beginnings and ends: an answer that says nothing, and one that breaks off."""

from __future__ import annotations

import re

from joycap_vllm.glitch.reading import Reading, shown
from joycap_vllm.prompts import Style

_NOTHING = frozenset({"none", "null", "n/a", "nan", "undefined", "no", "yes", "ok", "error"})
_NOTHING |= {"caption", "description", "tags", "answer", "image", "nothing", "&nbsp;", "<p></p>"}
_BLANK = "\u115f\u1160\u3164\uffa0"  # letters that print nothing
_REMAINS = re.compile(r"</?s>|<\|[^|<>\n]{1,64}\|>")
# Words that no sentence ends with; prepositions that may end one ("the chair she sits on") are out.
_HANGING = re.compile(
    r"(?:(?<![:;])[,;:(\-–]|\b(?:a|an|the|and|or|with|of|at|to|its|his|her|their|my|your|is|are|was|were"
    r"|has|have|from|for|into|that|which|who|whose|where|while|as|in|by|than|because|very))\s*\Z",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[.!?…\"'”’»)\]}*`>|:~♥✨]\Z|[^\x00-\x7f]\Z")
_SENTENCE = re.compile(r"[a-z\d)\"'”][.!?][\"'”)]?\s+[\"'“(]?[A-Z]")
# What servers of several makes say when an answer was ended for it.
_CUT_OFF = {
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), "the token limit"),
    **dict.fromkeys(("abort", "error", "cancelled"), "the server"),
}
_SENTENCES_LEAST = 2
_LONG = 900  # characters: short texts are seldom cut, and often lack a full stop
# Lines without an end, bullets, hashtags, links.
_LISTED = re.compile(r"[^.!?:\"'”\s][^\S\n]*\n|[#|•*@]|https?:")
_SENTENCES = 0.3  # share of function words from which a text is nothing but sentences


def find_nothing(reading: Reading, style: Style) -> str:
    """The evidence of an answer without a caption, or an empty text."""
    said = reading.text.strip()
    if "<" in said:
        said = _REMAINS.sub("", said).strip()
    if not said:
        return "nothing was said"
    if not any(character.isalnum() and character not in _BLANK for character in said):
        return f"there is no word in it: {shown(said)}"
    if len(said) < 20 and said.strip(" .!:\"'()[]*").lower() in _NOTHING:
        return f"{shown(said)} describes nothing"
    if style == "prose" and len(said) < 40 and said.strip(".!").isalpha() and said.isascii():
        return f"{shown(said)} is a single word"
    return ""


def find_cut(reading: Reading, style: Style, finish_reason: str | None) -> str:
    """The evidence of an answer that was cut off, or an empty text.

    Where it is not known why the answer ended, prose that breaks off in the middle of a sentence
    is cut; a text that never ends its sentences is written so.
    """
    said = reading.text.strip()
    tail = shown(said[-40:])
    if finish_reason and finish_reason.lower() in _CUT_OFF:
        return f"{_CUT_OFF[finish_reason.lower()]} cut it off at {tail}"
    if finish_reason is not None or style != "prose":
        return ""
    if _HANGING.search(said[-24:]) and not reading.is_post:
        return f"it breaks off at {tail}"
    if not _ENDS.search(said[-1:]) and _is_flowing(reading, said):
        return f"its last sentence has no end: {tail}"
    return ""


def _is_flowing(reading: Reading, said: str) -> bool:
    """Whether it is sentence after sentence, as no list, listing or post is."""
    return (
        len(said) >= _LONG
        and len(_SENTENCE.findall(said[-2000:])) >= _SENTENCES_LEAST
        and not _LISTED.search(said[-2000:])
        and reading.sentence_share >= _SENTENCES
    )
