"""What to do after an answer, by cause: pure functions of what was tried and what a server takes.

| cause | 1st time | 2nd time | 3rd time | and then |
|---|---|---|---|---|
| repetition | frequency penalty | a higher one | the highest | other seeds |
| refusal | second system prompt | a trained request first | a plain purpose | other seeds |
| truncated by the token limit | tokens x 2 | tokens x 4 | a shorter text | other seeds |
| truncated by itself, empty, prompt_echo, template_leak | warmer | warmer | warmer | other seeds |
| too_long, or cut off past its word limit | the limit again | 4/5 of it | 3/5 of it | other seeds |
| bad_format | the form in plain words | warmer | warmer | other seeds |
| wrong_language | "in English", cooler | cooler | cooler | other seeds |
| gibberish | cooler, no rare words | cooler | cooler | other seeds |

Every attempt takes a new seed, and all but the cooling ones a step up in temperature. What an
earlier glitch brought stays for later attempts, so a refusal and then a loop have both remedies.
A step that is not possible gives way to the next: a prompt whose own system prompt is the second
one is reworded at once, and where the context holds no more tokens a shorter text is asked for.
A list of tags that looped or was none is, in the last two attempts, held to its form by a regular
expression, where the server is a vLLM that takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from joycap_vllm.glitch.attempts import Ending, Means, Next, Question, Tried
from joycap_vllm.glitch.trim import trim
from joycap_vllm.glitch.verdict import Glitch
from joycap_vllm.prompts import load_table

# Stop a loop of up to 24 tokens once it stands there four times, and 32 tokens long at least: a
# stretch of one token counts as one of eight, so it must stand there 32 times, which no "!!!!" and
# no number does, a tag of four tokens 8 times, a sentence of sixteen 4 times, after 64 tokens
# instead of 512. On 3,934 good texts this stops none; sizes from 1 with eight rounds stop three,
# and a third fewer loops. vLLM looks in Python at every token, for every size: about 6 us here,
# which a large batch feels, so longer loops are left to the token limit and the judge.
REPETITION_DETECTION = {"max_pattern_size": 24, "min_pattern_size": 8, "min_count": 4}

_WARMER = 0.15  # added to the temperature with each attempt
_HOTTEST = 1.1
_COOLER = 0.6  # factor: rare tokens, not dull ones, make gibberish and slips into other languages
_SAMPLED = 0.3  # least temperature of a retry: greedy decoding would only repeat itself
_COOLING: tuple[Glitch, ...] = ("gibberish", "wrong_language")
_NO_TAIL = 0.9  # top_p after gibberish
# vLLM's repetition_penalty would also push down the tokens of the prompt, and Llama's end of turn
# is one of them: an answer that should stop would go on. The frequency penalty counts the answer
# alone, and every OpenAI server knows it. In a list each tag brings its comma, so it gets less.
_PENALTY = {"prose": 0.2, "mixed": 0.2, "tags": 0.1}  # for each loop so far, three at most
_MOST_TOKENS = 4  # times the first request's
_IMAGE_TOKENS = 729
_MARGIN = 64  # tokens that other words in the prompt may take
_TIGHTER = (1.0, 0.8, 0.6)  # shares of a word limit that is asked for again
_SHORT = 150  # words, where a text does not end within its tokens
_MOST_TAGS = 80
_WORD_OF_TAG = r"[^\s,]{1,40}"

ENGLISH = "Answer in English."
FORM = {
    "tags": "Answer only with tags, separated by commas.",
    "prose": "Answer in whole sentences, as plain text.",
    "mixed": "Answer only with what was asked for, as plain text.",
}
# Refusals come on questions unlike those that JoyCaption was trained on (its README), so the first
# rewording puts a request of its prompt table before the question; the second one, written here,
# gives a purpose. Both leave the wanted form as it is.
_TRAINED = {"tags": "booru-like-tag-list", "prose": "descriptive", "mixed": "descriptive"}
PURPOSE = "Name plainly what can be seen, in the form asked for above; it is for an image archive."

_SEVERITY: tuple[Glitch | None, ...] = (
    None,
    "too_long",
    "truncated",
    "bad_format",
    "wrong_language",
    "prompt_echo",
    "template_leak",
    "repetition",
    "gibberish",
    "refusal",
    "empty",
)


def find_ending(question: Question, tried: Sequence[Tried], *, retries: int) -> Ending | None:
    """How the task ends with these answers; None where another request is due.

    Args:
        question: What is asked.
        tried: The answers so far.
        retries: Attempts beyond the first.
    """
    if tried and tried[-1].glitch is None:
        return Ending("ok", len(tried) - 1)
    if len(tried) <= retries:
        return None
    return best_of(question, tried)


def next_request(question: Question, tried: Sequence[Tried], means: Means, *, retries: int) -> Next:
    """The request after these answers, all of them glitches; the table above says which.

    Args:
        question: What is asked.
        tried: The answers so far.
        means: What the endpoint takes.
        retries: Attempts beyond the first; they tell which ones are the last.
    """
    causes = Counter(_cause(question, answer) for answer in tried)
    system, before, after = _refusal_steps(question, causes["refusal"])
    after += _limits(question, tried, means, causes)
    if causes["bad_format"]:
        after.append(FORM[question.prompt.style])
    if causes["wrong_language"]:
        after.append(ENGLISH)
    return Next(
        seed=question.seed + len(tried),
        temperature=_temperature(question.prompt.sampling.temperature, causes),
        max_tokens=_max_tokens(question, tried, means, causes["truncated"]),
        system=system,
        text=" ".join([*before, question.text, *after]),
        fields=_fields(question, means, causes, last=len(tried) >= max(1, retries - 1)),
    )


def best_of(question: Question, tried: Sequence[Tried]) -> Ending:
    """The answer that is worth most: the longest that trimming mends, else the least bad one."""
    prompt = question.prompt
    mended = [
        trim(t.text, t.glitch, prompt.style, prompt=question.text, words=prompt.words)
        for t in tried
    ]
    longest = max(range(len(tried)), key=lambda i: len(mended[i] or ""))
    if mended[longest]:
        return Ending("glitched", longest, mended[longest])
    least = min(
        range(len(tried)), key=lambda i: (_SEVERITY.index(tried[i].glitch), -len(tried[i].text))
    )
    return Ending("glitched", least)


def tag_list_regex(words: int | None = None) -> str:
    """A list of 3 to 80 tags (or `words`, if that is fewer) of one to five words each.

    A tag may hold all but commas and line breaks, since real ones hold nearly everything
    (`artist:foo_(bar)`, `d.va`, `>_<`, `café`); its few words keep sentences out. Both counts are
    bounded: a grammar that may always go on makes a model loop that wanted to stop.
    """
    tag = f"{_WORD_OF_TAG}(?: {_WORD_OF_TAG}){{0,4}}"
    most = max(3, min(words or _MOST_TAGS, _MOST_TAGS))
    return f"{tag}(?:, {tag}){{2,{most - 1}}}"


def _cause(question: Question, answer: Tried) -> Glitch | Literal["broken_off"] | None:
    """The kind of glitch, except where a cut-off is no matter of tokens."""
    if answer.glitch != "truncated":
        return answer.glitch
    if answer.finish == "stop":
        return "broken_off"
    words = question.prompt.words
    return "too_long" if words and len(answer.text.split()) > words else "truncated"


def _refusal_steps(question: Question, refusals: int) -> tuple[str, list[str], list[str]]:
    """The system prompt, and what stands before and after the text."""
    second, own = load_table().system_prompts[1], question.prompt.system
    trained = load_table().find_type(_TRAINED[question.prompt.style])[0].any
    steps = [second] if own != second else []
    steps += [trained] if trained not in question.text else []
    steps = [*steps, PURPOSE][:refusals]
    return (
        second if second in steps else own,
        [trained] if trained in steps else [],
        [PURPOSE] if PURPOSE in steps else [],
    )


def _limits(
    question: Question, tried: Sequence[Tried], means: Means, causes: Counter[Any]
) -> list[str]:
    words, too_long, cuts = question.prompt.words, causes["too_long"], causes["truncated"]
    if too_long:
        share = _TIGHTER[min(too_long, len(_TIGHTER)) - 1]
        return [f"Use at most {max(1, int((words or _SHORT) * share))} words."]
    if not cuts or _max_tokens(question, tried, means, cuts) > _max_tokens(
        question, tried, means, cuts - 1
    ):
        return []
    tokens = min(question.prompt.sampling.max_tokens, _room(question, tried, means))
    fitting = max(10, min(words or _SHORT, _SHORT, tokens // 2))
    return [f"Finish within {fitting} words."]


def _max_tokens(question: Question, tried: Sequence[Tried], means: Means, cuts: int) -> int:
    first = question.prompt.sampling.max_tokens
    wanted = first * min(1 << cuts, _MOST_TOKENS)
    # A context too small for the first request is for the server to complain about.
    return max(first, min(wanted, _room(question, tried, means)))


def _room(question: Question, tried: Sequence[Tried], means: Means) -> int:
    """Tokens that an answer may have; without a known context as many as are ever wanted."""
    if means.context is None:
        return _MOST_TOKENS * question.prompt.sampling.max_tokens
    counted = max((answer.prompt_tokens for answer in tried), default=0)
    guessed = _IMAGE_TOKENS + (len(question.prompt.system) + len(question.text)) // 3
    return means.context - (counted or guessed) - _MARGIN


def _temperature(first: float, causes: Counter[Any]) -> float:
    if not causes:
        return first
    cooling = sum(causes[kind] for kind in _COOLING)
    hottest = max(_HOTTEST, first)
    warmed = min(first + _WARMER * (causes.total() - cooling), hottest)
    return min(max(round(warmed * _COOLER**cooling, 2), _SAMPLED), hottest)


def _fields(
    question: Question, means: Means, causes: Counter[Any], *, last: bool
) -> dict[str, Any]:
    sampling, style = question.prompt.sampling, question.prompt.style
    top_p = min(sampling.top_p, _NO_TAIL) if causes["gibberish"] else sampling.top_p
    fields: dict[str, Any] = {"top_p": top_p}
    if means.vllm is not None:
        fields["top_k"] = sampling.top_k
    if means.own_fields:
        fields["repetition_detection"] = REPETITION_DETECTION
    if causes["repetition"]:
        fields["frequency_penalty"] = round(_PENALTY[style] * min(causes["repetition"], 3), 2)
    formless = causes["repetition"] or causes["bad_format"]
    if means.own_fields and last and style == "tags" and formless:
        fields["structured_outputs"] = {"regex": tag_list_regex(question.prompt.words)}
    return fields
