"""Shards of a job: those that it read with captions added, or new ones."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from joycap_vllm import sources
from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.job.captions import Captions
from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Record
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.outputs import (
    NO_CAPTION,
    CaptionedImage,
    Shards,
    Sidecars,
    has_all,
    mirror_shard,
    sample_name,
)
from joycap_vllm.sources import IMAGE_SUFFIXES, Source, SourceImage

UNREADABLE = "an image that cannot be read any more"
_NAMES = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "MPO": "jpg"}  # Pillow's, where odd


def export_shards(
    captions: Captions,
    source: Source,
    out: Path,
    job: StoredJob,
    records: Mapping[tuple[str, str], Record],
) -> tuple[Counter[str], int, tuple[Path, ...]]:
    """Shards of all images of a source that have all their captions.

    Returns:
        Images by why they are left out, and by nothing those that are not; captions; the shards.

    Raises:
        UsageError: A shard of the source would be overwritten.
        OutputError: A shard is damaged, or cannot be written.
    """
    prompts = tuple(prompt.name for prompt in job.prompts)
    counts: Counter[str] = Counter()
    files: list[Path] = []
    homes = Homes(Sidecars(job.sidecars), source.root, records)
    with Shards(out, prompts) as shards:
        for part in source.parts:
            if shards_of(part):
                files += _mirrored(part, captions, out, prompts, counts)
                continue
            for image in part.images():
                found = captions.of(image.key, image.path)
                counts[_added(shards, homes, image, found, prompts)] += 1
    return counts, counts[""] * len(prompts), (*files, *shards.files)


def shards_of(part: Any) -> tuple[str, ...]:
    """The shards that a part of a source reads; none where it reads something else."""
    return getattr(part, "shards", ())


def _mirrored(
    part: Any, captions: Captions, out: Path, prompts: tuple[str, ...], counts: Counter[str]
) -> list[Path]:
    open_shard: Callable[[str], BinaryIO] = sources.open_shard  # type: ignore[attr-defined]
    shard_key: Callable[[str, str], tuple[str, str] | None] = sources.shard_key  # type: ignore[attr-defined]
    files: list[Path] = []
    for shard in shards_of(part):
        path = out / _name_of(shard, shard_key)
        if Path(shard).exists() and path.resolve() == Path(shard).resolve():
            raise UsageError(f"{shard} would be overwritten: name another folder with --out")
        with open_shard(shard) as file:
            key_of = partial(shard_key, shard)
            counts += mirror_shard(file, path, key_of, captions.of, prompts)
        files.append(path)
    return files


def _name_of(shard: str, shard_key: Callable[[str, str], tuple[str, str] | None]) -> str:
    """The name of a shard as keys begin with it, which is where it is below the source's root."""
    found = shard_key(shard, "x.png")
    name = shard if found is None else found[0].removesuffix("/x")
    return "/".join(p for p in re.split(r"[/\0]+|(?<=:)//", name) if p not in ("", ".", ".."))


def _added(
    shards: Shards,
    homes: Homes,
    image: SourceImage,
    found: CaptionedImage | None,
    prompts: tuple[str, ...],
) -> str:
    if found is None or not has_all(found, prompts):
        return NO_CAPTION
    try:
        data = image.read()
    except ImageError:
        return UNREADABLE
    stem = None
    if image.path is not None:
        stem = homes.of(image)[1] or image.path.stem
    shards.add(found, sample_name(image.key, stem), _extension(image.key, data), data)
    return ""


def _extension(key: str, data: bytes) -> str:
    suffix = Path(key).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix[1:]
    try:
        with Image.open(io.BytesIO(data)) as picture:
            known = picture.format or "bin"
    except Exception:  # a decoder may raise anything at all
        known = "bin"
    return _NAMES.get(known, known.lower())
