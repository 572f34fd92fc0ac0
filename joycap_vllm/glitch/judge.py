"""The judge: one small test for each kind of glitch, the first that finds something speaks."""

from __future__ import annotations

import re

from joycap_vllm.glitch.loops import find_loop
from joycap_vllm.glitch.verdict import Glitch, Verdict
from joycap_vllm.prompts import Style

_LEAK = re.compile(
    r"<\|[a-z_]{2,64}(?:\d+)?(?:\||\Z)"  # a control token as text, perhaps cut
    r"|<(?:image|unk|bos|eos|pad)>|\A\s*</?s>|</s>\s*\Z|\[/?INST\]|<</?SYS>>|</?think>"
    r"|<(?:start|end)_of_turn>"
    r"|(?:\A|\n)[ \t]*(?:system|user|assistant)[ \t]*\n\s*\S"
    r"|(?:\A\s*|\n\s*)(?:USER|ASSISTANT|User|Assistant):\s",
    re.MULTILINE,
)
_QUOTED = re.compile(r'"[^"\n]{0,400}"|“[^”\n]{0,400}”')
_UNWILLING = (
    r"(?:can(?:['’]?t|not|\snot)|could(?:n['’]?t|\snot)|won['’]?t|will\snot|do\snot|don['’]t"
    r"|am\s(?:currently\s)?(?:unable\sto|not\s(?:able|allowed|permitted)\sto)"
    r"|(?:['’]m|['’]re|are)\s(?:currently\s)?(?:unable\sto|not\s(?:able|allowed|permitted)\sto)"
    r"|(?:have\sto|must)\s(?:decline|refuse)|['’]d\srather\snot"
    r"|(?:am|['’]m)\s(?:not\s|un)comfortable|refuse\sto|decline\sto)"
)
_TASK = (
    r"(?:\s(?:currently|really|directly|actually|in\sgood\sconscience|be\sable\sto|to))*"
    r"(?:\s(?:help|assist|provid|describ|creat|generat|compl|fulfil|view|see\s(?:the|this|any|im)"
    r"|identif|caption|process|analy[sz]|discuss|engage|writ|respond|answer|continue|do\s(?:that|this)"
    r"|feel\scomfortable|have\s(?:the\sability|access)|support|produc|offer)\w*|\s?[.,;!]|\s*\Z)"
)
_REFUSAL = re.compile(
    rf"""(?:\A|(?<=[.!,;:—–-])|\bbut)\W*
        (?:(?:i\sapologi[sz]e|my\sapologies|sorry|i(?:['’]m|\sam)\s(?:very\s|so\s)?(?:sorry|afraid))
           [^.!?\n]{{0,40}}\W+)?
        (?:unfortunately,?\s)?(?:as\san?\s(?:ai|language\smodel)\b[^.!?\n]{{0,40}}\W+)?
        (?:i|we)(?:\s|(?=['’])){_UNWILLING}{_TASK}
      | \A\W*(?:(?:i['’]m|i\sam)\s(?:very\s|so\s)?(?:sorry|afraid)|sorry)[,.]?\s
            (?:but|as|i|for\sthe\sconfusion|there|that)\b
      | \A\W*i\sapologi[sz]e\b
      | \A\W*as\san?\s(?:ai|(?:ai\s)?(?:language\s)?(?:model|assistant))(?:,|\sI\b)
      | \A\W*i\sam\san?\sai\b
      | \A\W*(?:this|the|your)\s(?:request|content)\s(?:violates|goes\sagainst|is\snot\sallowed)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NOTHING = frozenset({"none", "null", "n/a", "nan", "undefined", "no", "yes", "ok", "error"})
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
        ("refusal", _refusal(text, finish_reason)),
        ("truncated", _truncated(text, style, finish_reason)),
    )
    for kind, why in findings:
        if why:
            return Verdict(False, kind, why)
    return Verdict(True)


def _empty(text: str) -> str:
    if text.strip().strip(".!").lower() in _NOTHING:
        return f"{text.strip()!r} describes nothing"
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


def _refusal(text: str, finish_reason: str | None) -> str:
    if finish_reason == "content_filter":
        return "the server's filter stopped it"
    found = _REFUSAL.search(_QUOTED.sub('""', text[:400])[:250])
    return f"it says {found.group().strip()!r}" if found else ""


def _truncated(text: str, style: Style, finish_reason: str | None) -> str:
    tail = text.strip()[-30:]
    if finish_reason == "length":
        return f"the token limit cut it off at {tail!r}"
    if finish_reason is None and style == "prose" and _HANGING.search(text.strip()):
        return f"it breaks off at {tail!r}"
    return ""
