"""Babble: words that make no sentence, and languages that nobody asked for."""

from __future__ import annotations

import re
from functools import lru_cache

from joycap_vllm.glitch.reading import FOREIGN, FOREIGN_LETTER, FUNCTION_WORDS, Reading, shown
from joycap_vllm.prompts import Style

# Pieces of words run together: "supportivetriggerExhibit", "prud615".
_GLUED = re.compile(r"[a-z]{2}[A-Z][a-z]|[a-z]{4}\d")
# The shape of a text: "a" for small letters, "A" for capitals, "0" for digits.
_SHAPE = bytes(
    ord("a" if c.islower() else "A" if c.isupper() else "0" if c.isdigit() else " ")
    for c in map(chr, range(256))
)
_STRONG = re.compile(r"(?<![#@/.\w-])[a-z]{4,}[A-Z][a-z]{2,}")  # "applicableSmall"; few brands
_NAME = re.compile(r"\W?(?:i?[A-Z])")  # such as YouTube and iPhone15
_NAMES = ("#", "@", "http", "www")
_MIXED = re.compile(rf"[A-Za-z][{FOREIGN}]|[{FOREIGN}][A-Za-z]")
_FOREIGN_SENTENCE = re.compile(
    rf"(?:\A|(?<=[.!?\n])[\"”)]?\s?)[{FOREIGN}](?:[{FOREIGN}]|[^\w.!?]){{14,}}+"
)
_WORD = re.compile(r"[A-Za-z]+|[,.;:!?\n()/|\"•*-]")
_CRUMBS = re.compile(r", ?,| a a ")
_SHORT = 12  # words below which nothing can be said
_RUN = 12  # words in a row without a function word or a sign; shop listings reach 35
_LONG_RUN = 45
_NOISE_LEAST = 30  # characters
_GLUED_SHARE = 0.04
_FOREIGN_SHARE = 0.15
_MUCH = 0.4
_FOREIGN_LEAST = 12  # letters
# Short words of other languages in Latin letters, none of them English.
_LANGUAGES = {
    "German": "der das und ist mit ein eine einem einer nicht auf von dem den im zu sich sind",
    "French": "le la les et est une des dans du avec sur qui pour au aux il elle sont cette",
    "Spanish": "el la los las y una con del en por su para que es se como está un al",
    "Portuguese": "os uma com da em na e para que um está se ao das dos",
    "Italian": "il lo gli della di che con una del e è nel sono per alla dei sulla",
    "Dutch": "de het een en van met is op zijn voor dat te aan er ook naar",
}
_LANGUAGE_WORDS = {name: frozenset(words.split()) for name, words in _LANGUAGES.items()}
_LANGUAGE_SHARE = 0.18
_ASKED = re.compile(
    r"\b(?:translat\w*|language|german|deutsch|español|français|italiano|português|french|spanish|portuguese|italian|dutch|chinese"
    r"|japanese|korean|russian|arabic|hindi|polish|turkish|vietnamese|thai|greek|hebrew|ukrainian"
    r"|mandarin|cantonese|indonesian|swedish|danish|norwegian|finnish|czech|hungarian)\b",
    re.IGNORECASE,
)


def find_gibberish(reading: Reading, style: Style) -> str:
    """The evidence of gibberish in words, or an empty text.

    One sign is not enough: product names are glued together, and shop listings are long rows of
    nouns. Glued pieces of words count double where they are many.
    """
    text, count = reading.text, len(reading.words)
    shape = text.encode("ascii", "replace").translate(_SHAPE)
    solid = sum(map(len, reading.words))
    if text.isascii() and solid >= _NOISE_LEAST and len(shape) - shape.count(b" ") < 0.2 * solid:
        return f"it is mostly signs: {shown(text)}"
    glued = _glued(text, shape) if count >= _SHORT else []
    share = sum(not _NAME.match(word) for word in glued) / max(count, 1)
    run = _bare_run(reading) if style != "tags" and count >= _SHORT else 0
    mixed = reading.is_foreign and bool(_MIXED.search(text))
    strong = sum(bool(_STRONG.search(word)) for word in glued)
    signs = (len(glued) >= _GLUED_SHARE * count) + (share >= 0.1) + min(strong, 2)
    signs += mixed + ("\ufffd" in text)
    if signs + (run >= _RUN) + (run >= 20) >= 2 and (signs or run >= _LONG_RUN):
        if len(glued) >= 2 or strong:
            return f"{len(glued)} words are run together, such as {shown(glued[0])}"
        return f"{run} words in a row make no sentence" if run >= _RUN else "scripts are mixed"
    return _crumbs(text) if style == "prose" else ""


def _glued(text: str, shape: bytes) -> list[str]:
    if b"aaAa" not in shape and b"aaaa0" not in shape:
        return []
    words = [word for word in text.split() if len(word) < 25 and _GLUED.search(word)]
    return [word for word in words if not word.startswith(_NAMES)]


def _bare_run(reading: Reading) -> int:
    """The longest row of words without a function word or a sign between them."""
    if reading.sentence_share >= 0.15:
        return 0
    run = longest = 0
    for word in _WORD.findall(reading.text):
        if not word[0].isalpha() or word.lower() in FUNCTION_WORDS:
            run = 0
        elif len(word) > 1:
            run += 1
            longest = max(longest, run)
    return longest


def _crumbs(text: str) -> str:
    if not any(mark in text for mark in (",,", ", ,", " a a ")):
        return ""
    words = text.split()
    bare = [word.strip(",.;:") for word in words]
    crumbs = sum(len(word) <= 1 and word not in {"a", "A", "I", "&", "-"} for word in bare)
    doubled = len(_CRUMBS.findall(text))
    if len(words) >= _SHORT and doubled >= 2 and doubled + crumbs >= 0.08 * len(words):
        return f"{crumbs} crumbs of words and {doubled} doubled commas"
    return ""


@lru_cache(maxsize=256)
def _is_foreign(prompt: str) -> bool:
    words = [word.strip(".,;:!?") for word in prompt.lower().split()]
    known = {word for word in words if any(word in k for k in _LANGUAGE_WORDS.values())}
    english = sum(word in FUNCTION_WORDS for word in words)
    return bool(FOREIGN_LETTER.search(prompt)) or not prompt.isascii() or len(known) > english


def find_language(reading: Reading, prompt: str | None) -> str:
    """The evidence of a language that was not asked for, or an empty text.

    Writing in the picture that is quoted does not count. A prompt in another script, or one that
    names a language, allows any.
    """
    if prompt and (_ASKED.search(prompt) or _is_foreign(prompt)):
        return ""
    plain = reading.unquoted
    if reading.is_foreign:
        found = _FOREIGN_SENTENCE.search(plain)
        if found:
            return f"it goes on in another script: {shown(found.group())}"
        foreign = FOREIGN_LETTER.findall(plain)
        share = len(foreign) / max(sum(map(str.isalpha, plain)), len(foreign), 1)
        few = reading.sentence_share >= _LANGUAGE_SHARE  # an English text that holds a sign's words
        if len(foreign) >= _FOREIGN_LEAST and share >= (_MUCH if few else _FOREIGN_SHARE):
            return f"{share:.0%} of its letters are of another script, in {shown(plain)}"
    english = reading.sentence_share
    if len(reading.words) < _SHORT or english >= _LANGUAGE_SHARE:
        return ""
    words = plain.lower().split()
    for name, known in _LANGUAGE_WORDS.items():
        share = sum(map(known.__contains__, words)) / max(len(words), 1)
        if share >= _LANGUAGE_SHARE and share >= 2 * english:
            return f"it is {name}: {shown(plain)}"
    return ""
