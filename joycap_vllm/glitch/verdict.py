"""What a judge says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Glitch = Literal[
    "empty",
    "repetition",
    "truncated",
    "refusal",
    "gibberish",
    "template_leak",
    "prompt_echo",
    "bad_format",
    "too_long",
    "wrong_language",
]
GLITCHES: tuple[Glitch, ...] = get_args(Glitch)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a text is a caption; if not, the kind of glitch and its evidence."""

    ok: bool
    glitch: Glitch | None = None
    why: str = ""
