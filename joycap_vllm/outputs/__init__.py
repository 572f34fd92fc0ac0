"""What users read, made from captions that are safe in a journal: sidecars, rows, shards."""

from joycap_vllm.outputs.captioned import NO_CAPTION, NO_FILE, Asked, CaptionedImage, Write
from joycap_vllm.outputs.files import replacing, write_atomically
from joycap_vllm.outputs.forms import FILES, FORMS, Form, folder_of, place_of, require
from joycap_vllm.outputs.parquet import parquet_writer
from joycap_vllm.outputs.prose import strip_lead_in
from joycap_vllm.outputs.rows import (
    finetune_writer,
    imagefolder_writer,
    jsonl_writer,
    kohya_writer,
)
from joycap_vllm.outputs.sidecars import SidecarOptions, Sidecars, Target, assign_stems, stem_of
from joycap_vllm.outputs.tags import TagOptions, polish_tags, read_tags
from joycap_vllm.outputs.tar import Shards, has_all, mirror_shard, sample_name
from joycap_vllm.outputs.text import Dressing, dress, one_line, undress

__all__ = [
    "FILES",
    "FORMS",
    "NO_CAPTION",
    "NO_FILE",
    "Asked",
    "CaptionedImage",
    "Dressing",
    "Form",
    "Shards",
    "SidecarOptions",
    "Sidecars",
    "TagOptions",
    "Target",
    "Write",
    "assign_stems",
    "dress",
    "finetune_writer",
    "folder_of",
    "has_all",
    "imagefolder_writer",
    "jsonl_writer",
    "kohya_writer",
    "mirror_shard",
    "one_line",
    "parquet_writer",
    "place_of",
    "polish_tags",
    "read_tags",
    "replacing",
    "require",
    "sample_name",
    "stem_of",
    "strip_lead_in",
    "undress",
    "write_atomically",
]
