"""The judge: one small test for each kind of glitch, the first that finds something speaks."""

from __future__ import annotations

from collections.abc import Iterator

from joycap_vllm.glitch.babble import find_gibberish, find_language
from joycap_vllm.glitch.echoes import find_echo
from joycap_vllm.glitch.endings import find_cut, find_nothing
from joycap_vllm.glitch.forms import find_excess, find_wrong_form
from joycap_vllm.glitch.leaks import find_leak
from joycap_vllm.glitch.loops import find_loop
from joycap_vllm.glitch.reading import Reading
from joycap_vllm.glitch.refusals import find_refusal
from joycap_vllm.glitch.verdict import Glitch, Verdict
from joycap_vllm.prompts import Style


def judge(
    text: str,
    *,
    style: Style = "prose",
    finish_reason: str | None = None,
    prompt: str | None = None,
    words: int | None = None,
) -> Verdict:
    """Judges one answer, in time linear in its length.

    >>> judge("A brown dog sleeps on a red sofa.").ok
    True
    >>> judge("A brown dog sleeps on a").glitch
    'truncated'

    Args:
        text: The answer.
        style: What was asked for: prose, tags, or either (mixed).
        finish_reason: Why the server stopped: `length`, and other servers' words for it, is a cut,
            `repetition` a loop, `content_filter` a refusal. Without it, prose that breaks off
            counts as cut.
        prompt: What was asked. The answer should not repeat it, and may be in another language
            than English only if the prompt is, or names one.
        words: The word limit that was asked for; half as much again is let pass.

    Returns:
        A verdict whose `why` shows the evidence.
    """
    for kind, why in _findings(text, style, finish_reason, prompt, words):
        if why:
            return Verdict(False, kind, why)
    return Verdict(True)


def _findings(
    text: str, style: Style, finish_reason: str | None, prompt: str | None, words: int | None
) -> Iterator[tuple[Glitch, str]]:
    reading = Reading(text)
    prose = style == "prose"
    yield "empty", find_nothing(reading, style)
    yield "repetition", find_loop(text, items=not prose)
    if finish_reason == "repetition":
        yield "repetition", "the server stopped it as a loop"
    yield "template_leak", find_leak(reading, prose=prose)
    yield "refusal", find_refusal(reading, finish_reason)
    yield "prompt_echo", find_echo(reading, prompt)
    yield "wrong_language", find_language(reading, prompt)
    yield "gibberish", find_gibberish(reading, style)
    yield "truncated", find_cut(reading, style, finish_reason)
    yield "bad_format", find_wrong_form(reading, style)
    yield "too_long", find_excess(reading, style, words)
