"""Where images come from."""

from joycap_vllm.sources.image import SourceImage, escaped, key_of, path_of, unescaped
from joycap_vllm.sources.source import IMAGE_SUFFIXES, Folder, Source, open_source

__all__ = [
    "IMAGE_SUFFIXES",
    "Folder",
    "Source",
    "SourceImage",
    "escaped",
    "key_of",
    "open_source",
    "path_of",
    "unescaped",
]
