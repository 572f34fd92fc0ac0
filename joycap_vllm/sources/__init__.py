"""Where images come from."""

from joycap_vllm.sources.image import SourceImage, key_of
from joycap_vllm.sources.source import IMAGE_SUFFIXES, Folder, Source, open_source

__all__ = ["IMAGE_SUFFIXES", "Folder", "Source", "SourceImage", "key_of", "open_source"]
