"""What is asked, what a server takes, what was tried, and what comes next: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from joycap_vllm.glitch.verdict import Glitch
from joycap_vllm.prompts import Prompt

# From this version on a vLLM has repetition_detection; structured_outputs came before, in 0.12.
_OWN_FIELDS_SINCE = (0, 17)


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks: its prompt, the exact text for its image, and the first seed."""

    prompt: Prompt
    text: str
    seed: int


@dataclass(frozen=True, slots=True)
class Means:
    """What an endpoint takes.

    Args:
        vllm: Version of vLLM, such as (0, 32, 0); None for any other server, which gets standard
            fields only.
        context: Longest context in tokens, prompt and answer together; None where unknown.
    """

    vllm: tuple[int, ...] | None = None
    context: int | None = None

    @property
    def own_fields(self) -> bool:
        """Whether it is a vLLM new enough for `repetition_detection` and `structured_outputs`."""
        return self.vllm is not None and self.vllm >= _OWN_FIELDS_SINCE


@dataclass(frozen=True, slots=True)
class Tried:
    """One answer so far.

    Args:
        text: The answer.
        glitch: What is wrong with it; None for a caption.
        finish: Why the server stopped; empty where it did not say.
        prompt_tokens: Tokens of its prompt by the server's count; 0 where it did not say.
    """

    text: str
    glitch: Glitch | None
    finish: str = ""
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Next:
    """The next request.

    Args:
        seed: Seed of the sampler.
        temperature: Temperature.
        max_tokens: Bound of the answer's length.
        system: The system prompt; empty sends none.
        text: What is asked.
        fields: Other fields of the request.
    """

    seed: int
    temperature: float
    max_tokens: int
    system: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ends: which of its answers counts.

    Args:
        outcome: ok, or glitched where the attempts are used up.
        index: The answer.
        trimmed: The answer without what was wrong at its end, where that is possible.
    """

    outcome: Literal["ok", "glitched"]
    index: int
    trimmed: str | None = None
