"""What users read: sidecars, and rows of JSONL, made from captions that are safe in a journal."""

from joycap_vllm.outputs.files import write_atomically
from joycap_vllm.outputs.prose import strip_lead_in
from joycap_vllm.outputs.sidecars import SidecarOptions, Sidecars, Target, assign_stems, stem_of
from joycap_vllm.outputs.tags import TagOptions, polish_tags, read_tags
from joycap_vllm.outputs.text import Dressing, dress, one_line, undress

__all__ = [
    "Dressing",
    "SidecarOptions",
    "Sidecars",
    "TagOptions",
    "Target",
    "assign_stems",
    "dress",
    "one_line",
    "polish_tags",
    "read_tags",
    "stem_of",
    "strip_lead_in",
    "undress",
    "write_atomically",
]
