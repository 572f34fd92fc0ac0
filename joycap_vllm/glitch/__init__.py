"""Is an answer a caption, and if not, what to do next."""

from joycap_vllm.glitch.judge import judge
from joycap_vllm.glitch.policy import Next, Tried, best_of, first_request, what_next
from joycap_vllm.glitch.verdict import GLITCHES, Glitch, Verdict

__all__ = [
    "GLITCHES",
    "Glitch",
    "Next",
    "Tried",
    "Verdict",
    "best_of",
    "first_request",
    "judge",
    "what_next",
]
