"""From the bytes of any picture to the bytes that the model is sent."""

from joycap_vllm.images.picture import Picture
from joycap_vllm.images.pixels import to_rgb
from joycap_vllm.images.pool import ImagePool
from joycap_vllm.images.recipe import Limits, Prepared, Recipe, prepare, recipe_name
from joycap_vllm.images.resize import squash
from joycap_vllm.images.wires import Wire

__all__ = [
    "ImagePool",
    "Limits",
    "Picture",
    "Prepared",
    "Recipe",
    "Wire",
    "prepare",
    "recipe_name",
    "squash",
    "to_rgb",
]
