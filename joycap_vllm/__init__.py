"""Captions image collections with JoyCaption over OpenAI-compatible servers.

The public API is what `__all__` lists; a test freezes it. Everything is imported when it is first
used, so that `joycap --help` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Captioner",
    "CaptionerOptions",
    "JoycapError",
    "Outcome",
    "Prompt",
    "Sampling",
    "Verdict",
    "build_prompt",
    "judge",
]

_HOMES = {
    "Captioner": "captioner",
    "CaptionerOptions": "captioner",
    "JoycapError": "errors",
    "Outcome": "captioner",
    "Prompt": "prompts",
    "Sampling": "prompts",
    "Verdict": "glitch",
    "build_prompt": "prompts",
    "judge": "glitch",
}

if TYPE_CHECKING:
    from joycap_vllm.captioner import Captioner, CaptionerOptions, Outcome
    from joycap_vllm.errors import JoycapError
    from joycap_vllm.glitch import Verdict, judge
    from joycap_vllm.prompts import Prompt, Sampling, build_prompt


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"joycap_vllm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
