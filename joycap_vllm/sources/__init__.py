"""Where images come from."""

from joycap_vllm.sources.image import (
    NO_COLUMNS,
    BytesPlace,
    FilePlace,
    NoPlace,
    Place,
    SlicePlace,
    SourceImage,
)
from joycap_vllm.sources.keys import (
    escaped,
    escaped_text,
    key_of,
    path_of,
    unescaped,
    unescaped_text,
)
from joycap_vllm.sources.local import IMAGE_SUFFIXES, image_names
from joycap_vllm.sources.opening import open_source
from joycap_vllm.sources.rows import Places, without_login
from joycap_vllm.sources.shards import TarShards, open_shard, shard_key
from joycap_vllm.sources.source import Part, Source, files_source
from joycap_vllm.sources.web import WebRules

__all__ = [
    "IMAGE_SUFFIXES",
    "NO_COLUMNS",
    "BytesPlace",
    "FilePlace",
    "NoPlace",
    "Part",
    "Place",
    "Places",
    "SlicePlace",
    "Source",
    "SourceImage",
    "TarShards",
    "WebRules",
    "escaped",
    "escaped_text",
    "files_source",
    "image_names",
    "key_of",
    "open_shard",
    "open_source",
    "path_of",
    "shard_key",
    "unescaped",
    "unescaped_text",
    "without_login",
]
