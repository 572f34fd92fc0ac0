"""Echoes: what was asked stands in the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

from joycap_vllm.glitch.reading import Reading, shown
from joycap_vllm.prompts import load_table

_Gram = tuple[str, ...]
_STEP = 4
_LONG = 20  # characters of a prompt that stands nowhere by chance
_STRETCH = 8  # words in a row that nobody writes twice by chance
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
# Sentences that tell somebody what to do; only these are echoes, since a prompt may hold the
# caption or the tags that the answer is meant to use.
_INSTRUCTION = re.compile(
    r"(?:please|write|analy[sz]e|describe|generate|output|produce|create|give|provide|caption|list|include"
    r"|exclude|do\s+not|don['’]t|mention|avoid|use|identify|specify|be|keep|refer|your|you|if|only"
    r"|make|state|name|answer|rewrite|reformat|act|imagine|focus|start|begin|end|limit|respond"
    r"|return|never|always|must|what|which|how|who|where|is\s+there|are\s+there)\b",
    re.IGNORECASE,
)
_EXAM = re.compile(
    r"^[ \t]*(?:Hint|Question|Choices|Options|Instructions?|Task|Prompt)[ \t]*:[ \t]*"
    r"(?:Please\b|Answer\b|Choose\b|Write\b|Describe\b|What\b|Which\b|How\b|Is\b|Are\b|Find\b|\(A\))",
    re.MULTILINE,
)
_ORDER = re.compile(
    r"\A\W*(?:write|generate|describe|produce|output|give)\s+(?:me\s+)?(?:a|an|the|this|only)\b"
    r"[^.\n]{0,60}\b(?:caption|description|this\s+image|the\s+image|tags|tag\s+list)\b",
    re.IGNORECASE,
)


def find_echo(reading: Reading, prompt: str | None) -> str:
    """The evidence of an echoed prompt, or an empty text.

    Without `prompt`, only sentences of JoyCaption's own prompt table and the forms of exam
    questions are known.
    """
    text, words = reading.text, reading.words
    found = _EXAM.search(text) if ":" in text else None
    found = found or _ORDER.search(text[:200])
    if found:
        return f"{shown(found.group())} is an instruction"
    if prompt:
        asked = prompt.lower().strip(" .!?:\n")
        near = reading.lower if len(asked) >= _LONG else reading.lower[: len(asked) + _LONG]
        if asked.count(" ") >= 2 and asked in near:
            return f"the prompt stands in it, {shown(prompt)}"
    return _echoed(words, _of_table()) or (_echoed(words, _of_prompt(prompt)) if prompt else "")


def _echoed(words: list[str], told: tuple[frozenset[_Gram], frozenset[_Gram]]) -> str:
    """A stretch of eight words holds four that begin at a multiple of four or five: few look-ups
    tell that there is none."""
    short, long = told
    for at in range(0, len(words) - _STEP + 1, _STEP):
        if tuple(words[at : at + _STEP]) in short:
            for start in range(max(at - _STEP, 0), at + 1):
                gram = tuple(words[start : start + _STRETCH])
                if gram in long:
                    return f"{shown(' '.join(gram))} is what was asked"
    return ""


def _told(texts: list[str], most: int | None) -> tuple[frozenset[_Gram], frozenset[_Gram]]:
    sentences = [s.strip() for text in texts for s in _SENTENCE.split(text)]
    words = [s.lower().split()[:most] for s in sentences if _INSTRUCTION.match(s)]
    return frozenset(_grams(words, _STEP)), frozenset(_grams(words, _STRETCH))


def _grams(sentences: list[list[str]], size: int) -> Iterator[_Gram]:
    for words in sentences:
        yield from zip(*(words[i:] for i in range(size)), strict=False)


@lru_cache(maxsize=256)
def _of_prompt(prompt: str) -> tuple[frozenset[_Gram], frozenset[_Gram]]:
    # What a sentence goes on to say, such as tags to use, may stand in the answer.
    return _told([prompt], _STRETCH + 2)


@cache
def _of_table() -> tuple[frozenset[_Gram], frozenset[_Gram]]:
    table = load_table()
    texts = [text for row in table.types for text in (row.any, row.words, row.length)]
    texts += [option.text for option in table.extras]
    return _told(texts + list(table.system_prompts), None)
