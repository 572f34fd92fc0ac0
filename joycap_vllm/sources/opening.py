"""From what users give as inputs to one source."""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.sources.braces import expanded
from joycap_vllm.sources.hub import ON_HUB, DatasetName, DatasetRows, dataset_of
from joycap_vllm.sources.image import Place
from joycap_vllm.sources.keys import escaped, key_of
from joycap_vllm.sources.local import IMAGE_SUFFIXES, LocalFiles, is_image
from joycap_vllm.sources.manifests import JsonlRows, PathList, named_in
from joycap_vllm.sources.parquet import ParquetRows
from joycap_vllm.sources.rows import Places, RowReader, file_of, without_login
from joycap_vllm.sources.shards import TarShards
from joycap_vllm.sources.single import SingleUrl
from joycap_vllm.sources.source import Part, Source
from joycap_vllm.sources.store import StoreFolder, StorePlace, in_words, open_store
from joycap_vllm.sources.streams import is_remote, is_web, lines_of, open_unpacked
from joycap_vllm.sources.web import WebPlace, WebRules

_KINDS = {
    ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".txt": "list",
}  # fmt: skip
_Maker = Callable[[Path], Part]


def open_source(inputs: Sequence[str], web: WebRules | None = None) -> Source:
    """Looks at what was given; nothing is walked yet.

    Args:
        inputs: Folders, image files, globs, `.txt` lists of paths and URLs (one a line, relative
            to the list's folder), `.jsonl` and `.parquet` manifests, WebDataset shards
            (`{000..099}.tar`), `hf://` datasets; each of them also as a URL of http(s) or of a
            store that fsspec knows.
        web: What may be fetched.

    Raises:
        UsageError: An input is missing, or of no kind that can be read.
    """
    opening = _Opening(tuple(inputs), web or WebRules())
    for text in inputs:
        opening.add(file_of(text) if text.lower().startswith("file://") else text)
    return opening.source()


@dataclass
class _Opening:
    """Inputs as they are sorted by kind."""

    inputs: tuple[str, ...]
    rules: WebRules
    trees: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    makers: list[_Maker] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Sorts one input.

        Raises:
            UsageError: It is missing, or of no kind that can be read.
        """
        if is_remote(text):
            self._add_remote(text)
            return
        path = absolute(text)
        if path.is_dir():
            self._add_folder(path)
        elif path.exists() or path.is_symlink():
            self._add_file(path)
        elif "{" in text and (names := expanded(text)) != [text]:
            for name in names:
                self.add(name)
        elif glob.has_magic(text):
            self._add_glob(text, path)
        else:
            raise UsageError(f"{text} does not exist")

    def source(self) -> Source:
        """All inputs so far as one.

        Raises:
            UsageError: They are none.
        """
        if not (self.roots or self.makers or self.shards):
            raise UsageError(f"none of {len(self.inputs)} inputs is an image or a folder")
        for tree in self.trees:
            if not os.access(tree, os.R_OK | os.X_OK):
                raise UsageError(f"the folder {tree} cannot be read")
        root = Path(os.path.commonpath(self.roots)) if self.roots else Path.cwd()
        parts: list[Part] = []
        if self.trees or self.files:
            trees = _outermost(self.trees)
            parts.append(LocalFiles(root, trees, tuple(dict.fromkeys(self.files))))
        parts += [make(root) for make in self.makers]
        if self.shards:
            parts.append(self._tars(root))
        return Source(root, tuple(parts), tuple(_anywhere(text) for text in self.inputs))

    def _add_folder(self, path: Path) -> None:
        dataset = dataset_of(str(path))
        if dataset is None:
            self.roots.append(path)
            self.trees.append(path)
        else:
            self._add_dataset(dataset)

    def _add_file(self, path: Path) -> None:
        kind, alone = kind_of(path.name), len(self.inputs) == 1
        if kind == "list" and not alone and _is_sidecar(path):
            return  # `joycap caption photos/*` names the sidecars of its last run too
        if kind is not None and path.is_file():
            self._add_rows(kind, str(path), f"{path.parent}".rstrip("/") + "/")
        elif alone or is_image(path.name):
            self.files.append(path)
        else:
            return
        self.roots.append(path.parent)

    def _add_glob(self, text: str, path: Path) -> None:
        kind = kind_of(path.name)
        found = _globbed(text, kind is not None)
        for one in found:
            if kind is not None and one.is_file():
                self._add_file(one)
            elif kind is None:
                (self.files if one.is_file() else self.trees).append(one)
        self.roots.append(_fixed_part(path))

    def _add_remote(self, text: str) -> None:
        bare = text.partition("?")[0] if is_web(text) else text
        kind, folder = kind_of(bare), posixpath.dirname(bare) + "/"
        if "{" in text and kind == "tar" and (names := expanded(text)) != [text]:
            for name in names:
                self._add_remote(name)
        elif kind is not None:
            self._add_rows(kind, text, folder)
        elif text.startswith("hf://") and not is_image(posixpath.basename(text)):
            dataset = dataset_of(text)
            if dataset is not None:
                self._add_dataset(dataset)
        elif is_web(text):
            self._add_single(text, WebPlace(text, self.rules))
        elif is_image(posixpath.basename(text)) and not glob.has_magic(text):
            self._add_single(text, StorePlace(text))
        else:
            self._add_store(text)

    def _add_rows(self, kind: str, name: str, folder: str) -> None:
        places, rules = Places(folder, self.rules), self.rules
        if kind == "tar":
            self.shards.append(name)
            return
        if kind == "list":
            self._require_list(name)
            self.makers.append(
                lambda root: PathList(name, str(root).rstrip("/") + "/", places, rules)
            )
            return
        remote = without_login(name) if len(self.inputs) > 1 else posixpath.basename(name)

        def reader(root: Path) -> RowReader:
            return RowReader(remote if is_remote(name) else key_of(Path(name), root), places)

        if kind == "jsonl":
            self.makers.append(lambda root: JsonlRows(name, reader(root), rules))
            return
        ParquetRows(name, RowReader("", places), rules).require()
        self.makers.append(lambda root: ParquetRows(name, reader(root), rules))

    def _add_single(self, text: str, place: Place) -> None:
        self.makers.append(lambda _: SingleUrl(without_login(text), place))

    def _add_dataset(self, dataset: DatasetName) -> None:
        DatasetRows(dataset).require()
        if dataset.local:
            folder = Path(dataset.name)
            self.roots.append(folder)
            self.makers.append(
                lambda root: DatasetRows(dataset, self._before(key_of(folder, root)))
            )
        else:
            self.makers.append(lambda _: DatasetRows(dataset, self._before(dataset.name)))

    def _add_store(self, text: str) -> None:
        before = self._before(text)
        try:
            files, path = open_store(text)
            is_pattern = glob.has_magic(path)
            exists = is_pattern or files.isdir(path)
        except UsageError:
            raise
        except Exception as error:  # a store's library may raise anything at all
            raise UsageError(f"{text} cannot be read: {in_words(error)}") from error
        if not exists:
            raise UsageError(f"{text} does not exist, or is no folder of images")
        if is_pattern:
            fixed = text[: text.index(next(sign for sign in text if sign in "*?["))]
            folder = StoreFolder(posixpath.dirname(fixed), before, path)
        else:
            folder = StoreFolder(text.rstrip("/"), before)
        self.makers.append(lambda _: folder)

    def _before(self, name: str) -> str:
        """What keys begin with, so that those of several inputs differ."""
        return "" if len(self.inputs) == 1 else f"{name.rstrip('/')}/"

    def _require_list(self, name: str) -> None:
        try:
            with open_unpacked(name, self.rules) as stream:
                for line in lines_of(stream):
                    if line is not None and b"\0" in line:
                        raise UsageError(f"the list {name} cannot be read: it is no text of UTF-8")
                    if line is None or named_in(line):
                        return
        except (OSError, EOFError) as error:
            raise UsageError(f"the list {name} cannot be read: {in_words(error)}") from error
        raise UsageError(f"the list {name} names no image")

    def _tars(self, root: Path) -> TarShards:
        shards = list(dict.fromkeys(self.shards))
        remote = [posixpath.dirname(name) for name in shards if is_remote(name)]
        top = _common(remote) if len(remote) == len(shards) else None
        names = []
        for shard in shards:
            if not is_remote(shard):
                names.append(key_of(Path(shard), root))
            else:
                inside = shard.partition("?")[0] if is_web(shard) else shard
                names.append(
                    escaped(Path(inside[len(top) :].lstrip("/"))) if top else without_login(inside)
                )
        return TarShards(tuple(shards), tuple(names), self.rules)


def _common(folders: Sequence[str]) -> str:
    """The part of URLs that all of them begin with, folder by folder."""
    shared: list[str] = []
    for parts in zip(*(folder.split("/") for folder in folders), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)


def kind_of(name: str) -> str | None:
    """What a file of this name holds, where it is no image."""
    low = name.lower()
    return next((kind for ending, kind in _KINDS.items() if low.endswith(ending)), None)


def absolute(text: str) -> Path:
    """The path that users mean, without following links."""
    path = Path(text)
    if text.startswith("~") and not path.exists():
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symlinks


def _anywhere(text: str) -> str:
    """An input as it means the same in any folder."""
    if text.startswith("hf://") and not text.startswith(ON_HUB):
        return f"hf://{absolute(text[len('hf://') :])}"
    return text if is_remote(text) else str(absolute(text))


def _is_sidecar(path: Path) -> bool:
    """Whether an image stands beside it whose caption it may be."""
    if Path(path.stem).suffix.lower() in IMAGE_SUFFIXES:
        return path.with_name(path.stem).exists()
    return any(path.with_suffix(suffix).exists() for suffix in IMAGE_SUFFIXES)


def _globbed(pattern: str, any_file: bool) -> list[Path]:
    found = sorted(glob.glob(str(absolute(pattern)), recursive=True))  # noqa: PTH207
    paths = [absolute(name) for name in found]
    wanted = [p for p in paths if any_file or p.is_dir() or is_image(p.name)]
    if not wanted:
        raise UsageError(f"no image matches {pattern}")
    return wanted if not any(p.is_file() for p in wanted) else [p for p in wanted if p.is_file()]


def _fixed_part(path: Path) -> Path:
    parts = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _outermost(trees: Sequence[Path]) -> tuple[Path, ...]:
    unique = list(dict.fromkeys(trees))
    return tuple(t for t in unique if not any(other in t.parents for other in unique))
