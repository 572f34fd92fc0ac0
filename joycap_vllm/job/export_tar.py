"""Shards of a job: those that it read with captions added, or new ones."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from joycap_vllm.errors import ImageError, OutputError, UsageError
from joycap_vllm.job.captions import Captions
from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Records
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
from joycap_vllm.sources import (
    IMAGE_SUFFIXES,
    Source,
    SourceImage,
    TarShards,
    open_shard,
    shard_key,
)

UNREADABLE = "an image that cannot be read any more"
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".heif": ".heic"}
_NAMES = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "MPO": "jpg"}  # Pillow's, where odd


def export_shards(
    captions: Captions,
    source: Source,
    out: Path,
    job: StoredJob,
    records: Records,
) -> tuple[Counter[str], int, tuple[Path, ...]]:
    """Shards of all images of a source that have all their captions.

    Returns:
        Images by why they are left out, and by nothing those that are not; captions; the shards.

    Raises:
        UsageError: A shard of the source would be overwritten.
        OutputError: The disk is full or broken, or a new shard cannot be written.
    """
    prompts = tuple(prompt.name for prompt in job.prompts)
    counts: Counter[str] = Counter()
    files: list[Path] = []
    extension = _Extension(image.key for image in captions.all())
    homes = Homes(Sidecars(job.sidecars), source.root, records)
    with Shards(out, prompts) as shards:
        for part in source.parts:
            if isinstance(part, TarShards):
                files += _mirrored(part, captions, out, prompts, counts)
                continue
            for image in part.images():
                found = captions.of(image.key, image.path)
                counts[_added(shards, homes, image, found, prompts, extension)] += 1
    return counts, counts[""] * len(prompts), (*files, *shards.files)


def _mirrored(
    part: TarShards, captions: Captions, out: Path, prompts: tuple[str, ...], counts: Counter[str]
) -> list[Path]:
    """The shards of a part with captions added; one that is damaged is left out alone."""
    files: list[Path] = []
    for shard, name in zip(part.shards, part.names, strict=True):
        path = out.joinpath(*(p for p in re.split(r"[/\0]+", name) if p not in ("", ".", "..")))
        if Path(shard).exists() and path.resolve() == Path(shard).resolve():
            raise UsageError(f"{shard} would be overwritten: name another folder with --out")

        def key_of(member: str, name: str = name) -> tuple[str, str] | None:
            key, extension = shard_key(name, member)
            return (key, extension) if extension else None

        try:
            with open_shard(shard, part.rules) as stream:
                counts += mirror_shard(stream, path, key_of, captions.of, prompts)
        except OSError as error:
            counts[f"the shard {shard} cannot be read: {error.strerror or error}"] += 1
        except OutputError as error:
            if error.stops_all:
                raise
            counts[str(error)] += 1
        else:
            files.append(path)
    return files


def _added(
    shards: Shards,
    homes: Homes,
    image: SourceImage,
    found: CaptionedImage | None,
    prompts: tuple[str, ...],
    extension: _Extension,
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
    shards.add(found, sample_name(image.key, stem), extension.of(data), data)
    return ""


class _Extension:
    """The one extension of all pictures of an export: loaders take it for a column's name, and
    datasets refuses shards whose samples differ. Pictures of several kinds are all called jpg:
    decoders look at what a file holds, and those that first look at the name know this one.

    Args:
        keys: The keys of all images that may be written.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = keys
        self._chosen = ""

    def of(self, data: bytes) -> str:
        """The extension of a picture."""
        if not self._chosen:  # of keys that tell nothing, the first picture tells
            self._chosen = _common(self._keys) or _looked_at(data)
        return self._chosen


def _common(keys: Iterable[str]) -> str:
    kinds: set[str] = set()
    for key in keys:
        kinds.add(_kind(key))
        if len(kinds) > 1:
            return "jpg"
    return "".join(kinds)


def _kind(key: str) -> str:
    suffix = Path(key).suffix.lower()
    return _SAME.get(suffix, suffix)[1:] if suffix in IMAGE_SUFFIXES else ""


def _looked_at(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            known = picture.format or "bin"
    except Exception:  # a decoder may raise anything at all
        known = "bin"
    return _NAMES.get(known, known.lower())
