"""Is an answer a caption, and if not, what to do next."""

from joycap_vllm.glitch.judge import judge
from joycap_vllm.glitch.policy import Next, Tried, best_of, first_request, what_next
from joycap_vllm.glitch.verdict import GLITCHES, Glitch, Style, Verdict

__all__ = [
    "GLITCHES",
    "Glitch",
    "Next",
    "Style",
    "Tried",
    "Verdict",
    "best_of",
    "first_request",
    "judge",
    "what_next",
]
