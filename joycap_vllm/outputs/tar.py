"""Captions in WebDataset shards: tars in which the files of a sample share their name's stem.

The same captions make the same shards, byte for byte: no times, no owners, one order.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs.captioned import NO_CAPTION, CaptionedImage, row_of
from joycap_vllm.outputs.files import replacing, write_atomically

_MOST_SAMPLES = 10_000  # of a shard
_MOST_BYTES = 1 << 30  # of a shard
_MOST_TEXT = 1 << 26  # bytes of a sample's own .json or .txt that are read
_COUNT = ".joycap-shards"

# The job's key and the extension of a member; None where it belongs to no sample.
KeyOf = Callable[[str], tuple[str, str] | None]


@contextmanager
def tar_file(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar that takes its place whole; compressed where its name ends in `gz`.

    Raises:
        OutputError: It cannot be written.
    """
    with ExitStack() as stack:
        file: Any = stack.enter_context(replacing(path, make_folders=True))
        if path.name.endswith("gz"):
            packed = gzip.GzipFile("", "wb", 1, file, mtime=0)  # images hardly shrink
            file = stack.enter_context(packed)
        yield stack.enter_context(tarfile.open(mode="w", fileobj=file, format=tarfile.PAX_FORMAT))


def mirror_shard(
    shard: BinaryIO,
    out: Path,
    key_of: KeyOf,
    captioned: Callable[[str], CaptionedImage | None],
    prompts: Sequence[str],
) -> Counter[str]:
    """Copies a shard, and adds to each sample its captions and what the journal tells of it.

    `KEY.txt` is the first prompt's caption, `KEY.NAME.txt` those of the others; a file of the
    sample that has such a name gives way. What the journal tells stands in `KEY.json` under
    `joycap`, beside what the sample's own `KEY.json` tells. Samples without all their captions are
    left out, since trainers want every sample to have the same files. Members that are no regular
    files, links among them, are left out too.

    Args:
        shard: The tar, decompressed; it is read once from front to back.
        out: The new shard.
        key_of: The job's key and the extension of a member, by its name.
        captioned: The image with a key; None where the journal has none.
        prompts: The job's prompts.

    Returns:
        How many samples there are by why they are left out; by nothing those that are not.

    Raises:
        OutputError: The shard is damaged, or the new one cannot be written.
    """
    try:
        return _mirror(shard, out, key_of, captioned, prompts)
    except (tarfile.TarError, EOFError, zlib.error, _DamagedError) as error:
        raise OutputError(f"{out} is not written: its shard is damaged ({error})") from error


def _mirror(
    shard: BinaryIO,
    out: Path,
    key_of: KeyOf,
    captioned: Callable[[str], CaptionedImage | None],
    prompts: Sequence[str],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with tar_file(out) as tar:
        sample: _Sample | None = None
        for member, data in _members(shard):
            found = key_of(member.name)
            if sample is not None and (found is None or sample.key != found[0]):
                counts[sample.end()] += 1
                sample = None
            if found is None:
                _add(tar, member.name, data, member.size)
                continue
            key, extension = found
            if sample is None:
                sample = _Sample(tar, key, _stem(member.name), captioned(key), prompts)
            sample.add(member, extension, data)
        if sample is not None:
            counts[sample.end()] += 1
    return counts


class _Sample:
    """A sample on its way into a tar; nothing is written of one without all its captions."""

    def __init__(
        self,
        tar: tarfile.TarFile,
        key: str,
        stem: str,
        image: CaptionedImage | None,
        prompts: Sequence[str],
    ) -> None:
        self.key = key
        self._tar = tar
        self._stem = stem
        self._image = image if image is not None and has_all(image, prompts) else None
        self._prompts = prompts
        self._texts = {} if self._image is None else _texts(self._image, prompts)
        self._about: dict[str, Any] = {}
        self._replaced: dict[str, str] = {}
        self._json = "json"

    def add(self, member: tarfile.TarInfo, extension: str, data: BinaryIO) -> None:
        """A file of the sample."""
        if self._image is None:
            return
        kind = extension.lower()
        if kind in self._texts:
            self._replaced[kind] = data.read(_MOST_TEXT).decode("utf-8", "replace")
            return
        if kind == "json" and member.size <= _MOST_TEXT:
            text = data.read()
            about = _object(text)
            if about is not None:
                self._about = about
                return
            data = io.BytesIO(text)
        if kind == "json":
            self._json = "joycap.json"
        _add(self._tar, member.name, data, member.size)

    def end(self) -> str:
        """All that is added to it."""
        if self._image is None:
            return NO_CAPTION
        for extension, text in self._texts.items():
            _add_bytes(self._tar, f"{self._stem}.{extension}", text.encode())
        own = _about(self._image, self._prompts)
        if self._replaced:
            own["replaced"] = self._replaced
        about = orjson.dumps(self._about | {"joycap": own})
        _add_bytes(self._tar, f"{self._stem}.{self._json}", about)
        return ""


class Shards:
    """New shards in a folder, `000000.tar` and on, each of at most 10,000 samples or 1 GiB; use it
    as a context manager.

    Shards that an earlier export put there and that are no longer needed are removed at the end.

    Args:
        folder: Where they go.
        prompts: The job's prompts.

    Raises:
        OutputError: A shard cannot be written.
    """

    def __init__(self, folder: Path, prompts: Sequence[str]) -> None:
        self.files: list[Path] = []
        self._folder = folder
        self._prompts = prompts
        self._open = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._samples = 0

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
            return
        self._open.close()
        self._remove_others()

    def add(self, image: CaptionedImage, name: str, extension: str, data: bytes) -> None:
        """A sample: an image that has all its captions, its bytes, and what the journal tells.

        Args:
            image: The image.
            name: The sample's name, as `sample_name` makes it.
            extension: Of its file, without the dot.
            data: The file's bytes.
        """
        tar = self._tar_for(len(data))
        _add_bytes(tar, f"{name}.{extension}", data)
        for kind, text in _texts(image, self._prompts).items():
            _add_bytes(tar, f"{name}.{kind}", text.encode())
        about = {"joycap": _about(image, self._prompts)}
        _add_bytes(tar, f"{name}.json", orjson.dumps(about))
        self._samples += 1

    def _tar_for(self, size: int) -> tarfile.TarFile:
        full = self._samples >= _MOST_SAMPLES or (
            self._tar is not None and self._samples and self._tar.offset + size > _MOST_BYTES
        )
        if self._tar is None or full:
            self._open.close()
            path = self._folder / f"{len(self.files):06}.tar"
            self._tar = self._open.enter_context(tar_file(path))
            self._samples = 0
            self.files.append(path)
        return self._tar

    def _remove_others(self) -> None:
        note = self._folder / _COUNT
        before = 0
        with suppress(OSError, ValueError):
            before = int(note.read_text())
        for number in range(len(self.files), before):
            with suppress(OSError):
                (self._folder / f"{number:06}.tar").unlink()
        if len(self.files) != before:
            write_atomically(note, f"{len(self.files)}\n".encode())


def has_all(image: CaptionedImage, prompts: Sequence[str]) -> bool:
    """Whether it has a caption of every prompt."""
    return all(prompt in image.captions for prompt in prompts)


def sample_name(key: str, stem: str | None = None) -> str:
    """The name of an image's sample: its folder and its stem, unique as the key is.

    A dot ends a sample's name for WebDataset, and nothing may lead out of where a tar is
    unpacked: where one or the other has to give way, a hash of the key keeps names apart.

    Args:
        key: The image's key.
        stem: What its sidecars are named after, where it is a file: unique in its folder.
    """
    wanted = key if stem is None else key[: key.rfind("/") + 1] + stem
    parts = [part for part in wanted.split("/") if part not in ("", ".", "..")] or ["image"]
    parts[-1] = parts[-1].replace(".", "_")
    name = re.sub(r"[\x00-\x1f\x7f]", "_", "/".join(parts))
    name = re.sub(r"\A__(?=[^/]*__/)", "_", name)  # webdataset passes over such folders
    if name == wanted:
        return name
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=5).hexdigest()
    return f"{name}-{digest}"


def _stem(name: str) -> str:
    base = name.rpartition("/")[2]
    return name[: len(name) - len(base) + base.index(".")]


def _texts(image: CaptionedImage, prompts: Sequence[str]) -> dict[str, str]:
    """Captions by the extension of their file."""
    first, *others = prompts
    return {"txt": image.captions[first]} | {f"{p}.txt": image.captions[p] for p in others}


def _about(image: CaptionedImage, prompts: Sequence[str]) -> dict[str, Any]:
    row = row_of(image, prompts)
    del row["path"]  # it says nothing on another machine
    return row


def _members(shard: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    with tarfile.open(mode="r|", fileobj=cast("BinaryIO", _Input(shard))) as tar:
        for member in tar:
            data = tar.extractfile(member) if member.isreg() else None
            if data is not None:
                yield member, cast("BinaryIO", data)
            _forget_members(tar)


class _Input:
    """A shard whose own troubles are told from those of the disk that is written to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise _DamagedError(error.strerror or str(error)) from error


class _DamagedError(Exception):
    pass


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    _add(tar, name, io.BytesIO(data), len(data))


def _add(tar: tarfile.TarFile, name: str, data: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)  # mode 0644, no owner, no time
    info.size = size
    tar.addfile(info, data)
    _forget_members(tar)


def _forget_members(tar: tarfile.TarFile) -> None:
    """Else all of them would be kept to its end."""
    tar.members.clear()  # type: ignore[attr-defined]
