"""WebDataset shards: tar files whose members of one name are one sample.

A sample's name is its members' folder and what is before the first dot of their name; what is
behind it is the extension: `cats/17.jpg`, `cats/17.json` and `cats/17.seg.png` are of `cats/17`.
The image is the first member whose extension is one of images, else the first whose extension
ends in one. Fields of `.json` and the texts of `.txt` and `.caption` are columns.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from joycap_vllm.sources.image import BytesPlace, NoPlace, Place, SlicePlace, SourceImage
from joycap_vllm.sources.keys import escaped_name
from joycap_vllm.sources.local import IMAGE_SUFFIXES
from joycap_vllm.sources.streams import is_remote, noting, open_unpacked
from joycap_vllm.sources.web import WebRules

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_CUT = "it is cut off in the middle of a file"
_TEXTS = ("txt", "caption")
_MOST_TEXT = 1 << 20
_MOST_STREAMED = 1 << 28  # bytes of an image that has to be held, since its shard is a stream
_HEADS = frozenset(
    {b"L", b"K", b"x", b"g", b"X"}
)  # describe what follows; tarfile reads them whole


@dataclass(frozen=True, slots=True)
class TarShards:
    """Shards, read one after the other.

    Args:
        shards: Paths or URLs.
        names: What each is called in keys: its path relative to the root of the source.
        rules: What may be fetched.
        unreadable: Shards that could not be read to their end, noted while walking.
    """

    shards: tuple[str, ...]
    names: tuple[str, ...]
    rules: WebRules
    unreadable: dict[Path | str, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = True
    beside: ClassVar[bool] = False

    def images(self) -> Iterator[SourceImage]:
        """An image for each sample that has one; of a damaged shard those before the damage.

        Of a plain tar file of this machine, bytes are read when they are asked for; of one that
        is packed or elsewhere, the bytes of a sample are at hand from its turn on.
        """
        for shard, name in zip(self.shards, self.names, strict=True):
            with noting(self.unreadable, shard), open_shard(shard, self.rules) as stream:
                yield from _images(stream, shard, name)

    def count(self) -> None:
        """Not told without reading them."""


def open_shard(shard: str, rules: WebRules | None = None) -> BinaryIO:
    """A shard as a stream of tar, unpacked where it is gzip; may only be read forwards.

    Raises:
        OSError: It cannot be opened.
        UsageError: Nothing installed reads such URLs.
    """
    return open_unpacked(shard, rules or WebRules())


def shard_key(name: str, member: str) -> tuple[str, str]:
    """The key of the image that a member belongs to, and the member's extension.

    Args:
        name: What the shard is called in keys, one of `TarShards.names`.
        member: The member's name.

    Returns:
        The key, `<name>/<sample>`, and the extension in small letters without its first dot; empty
        where the member belongs to no sample.
    """
    found = _MEMBER.fullmatch(member.removeprefix("./"))
    if found is None:
        return f"{name}/{escaped_name(member)}", ""
    return f"{name}/{escaped_name(found[1])}", found[2].lower()


class _Member(tarfile.TarInfo):
    """A header that tells of damage, where TarFile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADS and member.size > _MOST_TEXT:
            raise tarfile.ReadError("a header in it has no end")
        return member

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or cut off ({error})") from None


def _images(stream: BinaryIO, shard: str, name: str) -> Iterator[SourceImage]:
    in_place = not is_remote(shard) and not isinstance(stream, gzip.GzipFile)
    forward = stream if in_place else cast("BinaryIO", _Forward(stream))
    reading = _Reading(forward, shard if in_place else None)
    sample: _Sample | None = None
    damage: Exception | None = None
    with tarfile.TarFile(fileobj=forward, mode="r", tarinfo=_Member) as tar:
        try:
            for member in _members(tar):
                key, extension = shard_key(name, member.name)
                if not extension:
                    continue
                if sample is None or sample.key != key:
                    if sample is not None and sample.place is not None:
                        yield sample.image(sample.place)
                    sample = _Sample(key)
                sample.take(member, extension, reading)
        except Exception as error:  # what came before the damage is whole
            damage = error
    if sample is not None and sample.place is not None:
        yield sample.image(sample.place)
    if damage is not None:
        raise damage


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # they would all be kept
        if member.isreg() and not member.issparse():
            yield member


@dataclass(slots=True)
class _Sample:
    """What is known so far of a sample."""

    key: str
    place: Place | None = None
    exact: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)

    def take(self, member: tarfile.TarInfo, extension: str, reading: _Reading) -> None:
        """Takes from a member what is wanted of it."""
        exact = f".{extension}" in IMAGE_SUFFIXES
        last = "." + extension.rpartition(".")[2]
        if not self.exact and (exact or (self.place is None and last in IMAGE_SUFFIXES)):
            self.place, self.exact = reading.place(member), exact
        elif extension in (*_TEXTS, "json") and member.size <= _MOST_TEXT:
            self._read(extension, reading.bytes_of(member))

    def image(self, place: Place) -> SourceImage:
        """The sample as an image."""
        return SourceImage(self.key, place, {**self.fields, **self.texts})

    def _read(self, extension: str, data: bytes) -> None:
        import orjson

        if extension != "json":
            self.texts[extension] = data.decode("utf-8", "replace")
            return
        try:
            value = orjson.loads(data)
        except ValueError:
            return
        self.fields = value if isinstance(value, dict) else {"json": value}


class _Reading:
    """Finds the bytes of members.

    Args:
        stream: The shard.
        shard: Its path, where its bytes can be read again at any time.
    """

    def __init__(self, stream: BinaryIO, shard: str | None) -> None:
        self._stream, self._shard = stream, shard
        self._end = os.fstat(stream.fileno()).st_size if shard is not None else 0

    def place(self, member: tarfile.TarInfo) -> Place:
        """Where the bytes of a member are: in the file, or else at hand."""
        if self._shard is not None:
            if member.offset_data + member.size > self._end:
                raise tarfile.ReadError(_CUT)
            return SlicePlace(self._shard, member.offset_data, member.size)
        if member.size > _MOST_STREAMED:
            return NoPlace(
                f"it has {member.size / 1e6:.0f} MB, over the {_MOST_STREAMED // 1_000_000} that "
                "an image of a packed or remote shard may have"
            )
        return BytesPlace(self.bytes_of(member))

    def bytes_of(self, member: tarfile.TarInfo) -> bytes:
        """The bytes of a member, now."""
        self._stream.seek(member.offset_data)
        data = self._stream.read(member.size)
        if len(data) < member.size:
            raise tarfile.ReadError(_CUT)
        return data


class _Forward:
    """A stream that can only be read, made to skip forwards as tarfile asks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at = stream, 0

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> int:
        while self._at < to and self.read(min(to - self._at, 1 << 18)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
            self._at += len(part)
        return b"".join(parts)
