"""Captioning on Ray Data (the extra `ray`): the captioner inside a dataset's actors."""

from joycap_vllm.scale.dataset import caption_dataset

__all__ = ["caption_dataset"]
