"""Folders, files, globs and lists of paths as one stream of images, folder by folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.sources.image import SourceImage, key_of

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga", ".qoi", ".ico", ".psd",
})  # fmt: skip
MASK_FOLDERS = frozenset({"_controls"})
MASK_ENDINGS = ("-masklabel", "-condlabel")  # OneTrainer keeps masks beside its pictures


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of one folder, in the order of their names."""

    path: Path
    images: tuple[SourceImage, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of a job.

    Args:
        root: The folder that keys are relative to.
        trees: Folders to walk.
        files: Single files.
    """

    root: Path
    trees: tuple[Path, ...]
    files: tuple[Path, ...]

    def folders(self) -> Iterator[Folder]:
        """Every folder that holds images, once, in a stable order; nothing is read ahead."""
        single: dict[Path, list[Path]] = {}
        for file in self.files:
            single.setdefault(file.parent, []).append(file)
        for parent, paths in single.items():
            if not any(parent == tree or tree in parent.parents for tree in self.trees):
                yield self._folder(parent, sorted(set(paths), key=_sort_key))
        seen: set[tuple[int, int]] = set()
        for tree in self.trees:
            for parent, paths in _walk(tree, seen):
                yield self._folder(parent, paths)

    def _folder(self, path: Path, files: Sequence[Path]) -> Folder:
        return Folder(path, tuple(SourceImage(key_of(file, self.root), file) for file in files))


def open_source(inputs: Sequence[str]) -> Source:
    """Looks at what was given; nothing is walked yet.

    Args:
        inputs: Folders, image files, globs, and `.txt` lists of paths (one a line, relative to
            the list's folder).

    Raises:
        UsageError: An input is missing, or of no kind that can be read.
    """
    trees: list[Path] = []
    files: list[Path] = []
    roots: list[Path] = []
    for text in inputs:
        path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - keeps symlinks
        if path.is_dir():
            trees.append(path)
            roots.append(path)
        elif path.is_file() and path.suffix.lower() == ".txt":
            files += _listed(path)
            roots.append(path.parent)
        elif path.is_file():
            files.append(path)
            roots.append(path.parent)
        elif glob.has_magic(text):
            found = _globbed(text)
            files += [f for f in found if f.is_file()]
            trees += [f for f in found if f.is_dir()]
            roots.append(_fixed_part(path))
        else:
            raise UsageError(f"{text} does not exist")
    return Source(Path(os.path.commonpath(roots)), _outermost(trees), tuple(dict.fromkeys(files)))


def _walk(tree: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, list[Path]]]:
    status = tree.stat()
    if (status.st_dev, status.st_ino) in seen:
        return  # a link back to where the walk has been
    seen.add((status.st_dev, status.st_ino))
    try:
        with os.scandir(tree) as entries:
            listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UsageError(f"the folder {tree} cannot be read: {error.strerror}") from error
    images = [Path(entry.path) for entry in listed if _is_wanted(entry)]
    if images:
        yield tree, images
    for entry in listed:
        hidden = entry.name.startswith(".") or entry.name in MASK_FOLDERS
        if not hidden and entry.is_dir():
            yield from _walk(Path(entry.path), seen)


def _is_wanted(entry: os.DirEntry[str]) -> bool:
    name, suffix = Path(entry.name).stem, Path(entry.name).suffix
    if suffix.lower() not in IMAGE_SUFFIXES or entry.name.startswith("."):
        return False
    return not name.endswith(MASK_ENDINGS) and not entry.is_dir()


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read: {error}") from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not named:
        raise UsageError(f"the list {path} names no image")
    return [Path(os.path.abspath(path.parent / name)) for name in named]  # noqa: PTH100


def _globbed(pattern: str) -> list[Path]:
    found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207
    paths = [Path(os.path.abspath(name)) for name in found]  # noqa: PTH100
    wanted = [p for p in paths if p.is_dir() or p.suffix.lower() in IMAGE_SUFFIXES]
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


def _sort_key(path: Path) -> bytes:
    return os.fsencode(path)
