"""From the bytes of any picture to the bytes that the model is sent."""

from joycap_vllm.images.pool import ImagePool
from joycap_vllm.images.recipe import RECIPE, Limits, Prepared, Wire, prepare, squash, to_rgb

__all__ = ["RECIPE", "ImagePool", "Limits", "Prepared", "Wire", "prepare", "squash", "to_rgb"]
