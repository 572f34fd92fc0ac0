"""Captioning on Ray (the extra `ray`): the captioner inside a dataset's actors, and a job's work on
a cluster."""

from joycap_vllm.scale.cluster import check_address, require_ray
from joycap_vllm.scale.crew import ray_crew
from joycap_vllm.scale.dataset import caption_dataset

__all__ = ["caption_dataset", "check_address", "ray_crew", "require_ray"]
