"""The judge: one small test for each kind of glitch, the first that finds something speaks."""

from __future__ import annotations

import re

from joycap_vllm.glitch.loops import find_loop
from joycap_vllm.glitch.verdict import Glitch, Style, Verdict

_LEAK = re.compile(
    r"<\|[^|<>\s]{1,64}\|>"  # a control token as text
    r"|<image>|</?s>|\[/?INST\]|<</?SYS>>|</?think>|<(?:start|end)_of_turn>"
    r"|(?:\A|\n)\s*(?:system|user|human|assistant)\s*(?::|\n|\Z)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"[^"\n]{0,400}"|“[^”\n]{0,400}”')
_REFUSAL = re.compile(
    r"""\A\W*(?:
        (?:oh[,!]?\s|unfortunately,?\s)?
        (?:i['’]m|i\sam)\s(?:really\s|very\s|so\s)?(?:sorry|afraid|unable|not\s(?:able|allowed|going))
      | (?:i\s)?(?:apologi[sz]e|my\sapologies)
      | sorry[,!.]?\s(?:but\s)?(?:i|this)\b
      | (?:unfortunately,?\s)?i\s(?:can(?:['’]t|not|\snot)|won['’]t|will\snot)\b
      | i\s(?:must\sdecline|refuse)\b
      | as\san?\s(?:ai|language\smodel|artificial\sintelligence)\b
      | (?:this|the)\s(?:request|content)\s(?:violates|goes\sagainst|is\snot\sallowed)
      | i\s(?:do\snot|don['’]t)\sfeel\scomfortable
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_HANGING = re.compile(
    r"(?:[,;:(\-–]|\b(?:a|an|the|and|or|with|of|in|on|at|to|its|his|her|their|is|are))\s*\Z",
    re.IGNORECASE,
)


def judge(
    text: str,
    *,
    style: Style = "prose",
    finish_reason: str | None = None,
    prompt: str | None = None,
    words: int | None = None,
) -> Verdict:
    """Judges one answer.

    Args:
        text: The answer.
        style: What was asked for: prose, tags, or either (mixed).
        finish_reason: Why the server stopped; `length` is a cut, `repetition` a loop.
        prompt: What was asked, for judges that compare the answer with it.
        words: The word limit that was asked for.

    Returns:
        A verdict whose `why` shows the evidence.
    """
    del prompt, words  # part of the interface; the judges of this version do not need them
    findings: tuple[tuple[Glitch, str], ...] = (
        ("empty", _empty(text)),
        ("repetition", _repetition(text, finish_reason)),
        ("template_leak", _leak(text)),
        ("refusal", _refusal(text)),
        ("truncated", _truncated(text, style, finish_reason)),
    )
    for kind, why in findings:
        if why:
            return Verdict(False, kind, why)
    return Verdict(True)


def _empty(text: str) -> str:
    if any(c.isalnum() for c in text):
        return ""
    return f"there is no word in it: {text.strip()[:40]!r}" if text.strip() else "nothing was said"


def _repetition(text: str, finish_reason: str | None) -> str:
    if finish_reason == "repetition":
        return "the server stopped it as a loop"
    return find_loop(text)


def _leak(text: str) -> str:
    found = _LEAK.search(text)
    return f"{found.group().strip()!r} belongs to the chat format" if found else ""


def _refusal(text: str) -> str:
    found = _REFUSAL.search(_QUOTED.sub('""', text[:400]))
    return f"it begins with {found.group().strip()!r}" if found else ""


def _truncated(text: str, style: Style, finish_reason: str | None) -> str:
    tail = text.strip()[-30:]
    if finish_reason == "length":
        return f"the token limit cut it off at {tail!r}"
    if finish_reason is None and style == "prose" and _HANGING.search(text.strip()):
        return f"it breaks off at {tail!r}"
    return ""
