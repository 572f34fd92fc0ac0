"""What to do after an answer, by cause: a pure function of what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from joycap_vllm.glitch.verdict import Glitch
from joycap_vllm.prompts import load_table

REPHRASED = " Describe plainly what can be seen; this is for an image archive."
_WARMER = 0.15  # added to the temperature with each attempt
_HOTTEST = 1.1
_PENALTY = 0.3  # frequency penalty for each loop so far
_REPETITION_DETECTION_SINCE = (0, 17)
# Cut a loop after eight repeats of at most 16 tokens; larger patterns cost the scheduler more than
# they save (vLLM checks in Python at every token).
REPETITION_DETECTION = {"max_pattern_size": 16, "min_pattern_size": 1, "min_count": 8}
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


@dataclass(frozen=True, slots=True)
class Tried:
    """One answer so far: its text and its glitch."""

    text: str
    glitch: Glitch | None


@dataclass(frozen=True, slots=True)
class Next:
    """The next request's settings.

    Args:
        seed: Seed of the sampler.
        temperature: Temperature.
        max_tokens: Bound of the answer's length.
        system: A system prompt in place of the prompt's own; None keeps it.
        suffix: Added to the prompt's text.
        fields: Other fields of the request.
    """

    seed: int
    temperature: float
    max_tokens: int
    system: str | None = None
    suffix: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def first_request(
    *,
    seed: int,
    temperature: float,
    max_tokens: int,
    top_p: float,
    top_k: int,
    vllm: tuple[int, ...] | None,
) -> Next:
    """The first request for a task; vLLM's own fields go only to a vLLM that knows them."""
    fields: dict[str, Any] = {"top_p": top_p}
    if vllm is not None:
        fields["top_k"] = top_k
        if vllm >= _REPETITION_DETECTION_SINCE:
            fields["repetition_detection"] = REPETITION_DETECTION
    return Next(seed, temperature, max_tokens, fields=fields)


def what_next(
    first: Next, tried: Sequence[Tried], *, retries: int, context: int | None = None
) -> Next | None:
    """The request after `tried`, or None once the attempts are used up.

    Every attempt takes a new seed and a warmer temperature. A loop adds a penalty; a refusal the
    second system prompt, then a rephrased prompt; a cut-off doubles the tokens while the context
    allows.

    Args:
        first: The first request.
        tried: The answers so far, all of them glitches.
        retries: Attempts beyond the first.
        context: The server's longest context in tokens, where it is known.
    """
    number = len(tried)
    if number > retries:
        return None
    kinds = [answer.glitch for answer in tried]
    loops, refusals, cuts = (kinds.count(k) for k in ("repetition", "refusal", "truncated"))
    penalty = {"frequency_penalty": round(_PENALTY * min(loops, 3), 2)} if loops else {}
    longest = (context // 2) if context else 4 * first.max_tokens
    return Next(
        seed=first.seed + number,
        temperature=round(
            min(first.temperature + _WARMER * number, max(_HOTTEST, first.temperature)), 2
        ),
        max_tokens=max(first.max_tokens, min(first.max_tokens * 2**cuts, longest)),
        system=load_table().system_prompts[1] if refusals else None,
        suffix=REPHRASED if refusals >= 2 else "",
        fields=first.fields | penalty,
    )


def best_of(tried: Sequence[Tried]) -> int:
    """Index of the least bad answer: by kind of glitch, then the longer one."""
    return min(
        range(len(tried)),
        key=lambda i: (_SEVERITY.index(tried[i].glitch), -len(tried[i].text)),
    )
