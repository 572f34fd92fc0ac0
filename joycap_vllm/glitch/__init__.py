"""Is an answer a caption, and if not, what to do next."""

from joycap_vllm.glitch.attempts import Ending, Means, Next, Question, Tried
from joycap_vllm.glitch.judge import judge
from joycap_vllm.glitch.policy import (
    REPETITION_DETECTION,
    best_of,
    find_ending,
    next_request,
    tag_list_regex,
)
from joycap_vllm.glitch.trim import trim
from joycap_vllm.glitch.verdict import GLITCHES, Glitch, Verdict

__all__ = [
    "GLITCHES",
    "REPETITION_DETECTION",
    "Ending",
    "Glitch",
    "Means",
    "Next",
    "Question",
    "Tried",
    "Verdict",
    "best_of",
    "find_ending",
    "judge",
    "next_request",
    "tag_list_regex",
    "trim",
]
