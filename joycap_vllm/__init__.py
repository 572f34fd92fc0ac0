"""Captions image collections with JoyCaption over OpenAI-compatible servers.

The public API is what `__all__` lists; a test freezes it. Everything is imported when it is first
used, so that `joycap --help` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Captioned",
    "Captioner",
    "CaptionerOptions",
    "FleetOptions",
    "ImageError",
    "ImageLike",
    "JoycapError",
    "Limits",
    "NoCaptionError",
    "NoEndpointError",
    "Outcome",
    "Prompt",
    "Sampling",
    "SyncCaptioner",
    "UsageError",
    "Verdict",
    "build_prompt",
    "custom_prompt",
    "judge",
]

_HOMES = {
    "Captioned": "captioner",
    "Captioner": "captioner",
    "CaptionerOptions": "captioner",
    "FleetOptions": "fleet",
    "ImageError": "errors",
    "ImageLike": "given",
    "JoycapError": "errors",
    "Limits": "images",
    "NoCaptionError": "errors",
    "NoEndpointError": "errors",
    "Outcome": "captioner",
    "Prompt": "prompts",
    "Sampling": "prompts",
    "SyncCaptioner": "sync",
    "UsageError": "errors",
    "Verdict": "glitch",
    "build_prompt": "prompts",
    "custom_prompt": "prompts",
    "judge": "glitch",
}

if TYPE_CHECKING:
    from joycap_vllm.captioner import Captioned, Captioner, CaptionerOptions, Outcome
    from joycap_vllm.errors import (
        ImageError,
        JoycapError,
        NoCaptionError,
        NoEndpointError,
        UsageError,
    )
    from joycap_vllm.fleet import FleetOptions
    from joycap_vllm.given import ImageLike
    from joycap_vllm.glitch import Verdict, judge
    from joycap_vllm.images import Limits
    from joycap_vllm.prompts import Prompt, Sampling, build_prompt, custom_prompt
    from joycap_vllm.sync import SyncCaptioner
else:  # or type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"joycap_vllm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
