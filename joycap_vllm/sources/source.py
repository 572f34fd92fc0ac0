"""Folders, files, globs and lists of paths as one stream of images, folder by folder."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.sources.image import SourceImage, key_of

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga", ".qoi", ".ico", ".psd",
})  # fmt: skip
LATER_SUFFIXES = frozenset({".jsonl", ".parquet", ".tar"})
MASK_FOLDERS = frozenset({"_controls"})
MASK_ENDINGS = ("-masklabel", "-condlabel")  # OneTrainer keeps masks beside its pictures


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of one folder that were asked for, in the order of their names.

    Args:
        path: The folder.
        images: The images.
        names: File names of all images in it, asked for or not.
    """

    path: Path
    images: tuple[SourceImage, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of a job.

    Args:
        root: The folder that keys are relative to.
        trees: Folders to walk.
        files: Single files.
        unreadable: Folders that could not be read, noted while walking.
    """

    root: Path
    trees: tuple[Path, ...]
    files: tuple[Path, ...]
    unreadable: dict[Path, str] = field(default_factory=dict, compare=False)

    def folders(self) -> Iterator[Folder]:
        """Every folder that holds images, once, in a stable order; nothing is read ahead."""
        single: dict[Path, list[Path]] = {}
        for file in self.files:
            single.setdefault(file.parent, []).append(file)
        for parent, paths in single.items():
            if not any(parent == tree or tree in parent.parents for tree in self.trees):
                paths = sorted(set(paths), key=os.fsencode)
                around = {path.name for path in (*paths, *self._images_in(parent)[0])}
                yield self._folder(parent, paths, sorted(around))
        seen: set[tuple[int, int]] = set()
        for tree in self.trees:
            yield from self._walk(tree, seen)

    def images_in(self, folder: Path) -> list[Path]:
        """The images right in a folder, by name."""
        return self._images_in(folder)[0]

    def _walk(self, tree: Path, seen: set[tuple[int, int]]) -> Iterator[Folder]:
        with contextlib.suppress(OSError):
            status = tree.stat()
            if (status.st_dev, status.st_ino) in seen:
                return  # a link back to where the walk has been
            seen.add((status.st_dev, status.st_ino))
        images, folders = self._images_in(tree)
        if images:
            yield self._folder(tree, images, [image.name for image in images])
        for folder in folders:
            yield from self._walk(folder, seen)

    def _images_in(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The images of a folder and the folders in it, by name; nothing of one unreadable."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self.unreadable[folder] = error.strerror or str(error)
            return [], []
        folders = [entry for entry in listed if _is_folder(entry)]
        images = [Path(entry.path) for entry in listed if _is_image(entry.name)]
        inside = {entry.path for entry in folders}
        shown = [Path(e.path) for e in folders if e.name[0] != "." and e.name not in MASK_FOLDERS]
        return [image for image in images if str(image) not in inside], shown

    def _folder(self, path: Path, files: Sequence[Path], names: Sequence[str]) -> Folder:
        images = tuple(SourceImage(key_of(file, self.root), file) for file in files)
        return Folder(path, images, tuple(names))


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
        path = _absolute(text)
        if path.is_dir():
            trees.append(path)
            roots.append(path)
        elif path.suffix.lower() in LATER_SUFFIXES or "://" in text:
            raise UsageError(
                f"{text} cannot be read by this version: give folders, image files, globs, or "
                ".txt lists of paths"
            )
        elif path.is_file() and path.suffix.lower() == ".txt":
            if len(inputs) > 1 and _is_sidecar(path):
                continue  # `joycap caption photos/*` names the sidecars of its last run too
            files += _listed(path)
            roots.append(path.parent)
        elif path.exists() or path.is_symlink():
            if len(inputs) == 1 or _is_image(path.name):
                files.append(path)
                roots.append(path.parent)
        elif glob.has_magic(text):
            found = _globbed(text)
            files += [f for f in found if f.is_file()]
            trees += [f for f in found if f.is_dir()]
            roots.append(_fixed_part(path))
        else:
            raise UsageError(f"{text} does not exist")
    if not roots:
        raise UsageError(f"none of {len(inputs)} inputs is an image or a folder")
    for tree in trees:
        if not os.access(tree, os.R_OK | os.X_OK):
            raise UsageError(f"the folder {tree} cannot be read")
    return Source(Path(os.path.commonpath(roots)), _outermost(trees), tuple(dict.fromkeys(files)))


def _absolute(text: str) -> Path:
    path = Path(text)
    if text.startswith("~") and not path.exists():
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symlinks


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it as an image will tell


def _is_image(name: str) -> bool:
    path = Path(name)
    if path.suffix.lower() not in IMAGE_SUFFIXES or name.startswith("."):
        return False
    return not path.stem.endswith(MASK_ENDINGS)


def _is_sidecar(path: Path) -> bool:
    """Whether an image stands beside it whose caption it may be."""
    if Path(path.stem).suffix.lower() in IMAGE_SUFFIXES:
        return path.with_name(path.stem).exists()
    return any(path.with_suffix(suffix).exists() for suffix in IMAGE_SUFFIXES)


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read: {error}") from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not named:
        raise UsageError(f"the list {path} names no image")
    return [_absolute(str(path.parent / name)) for name in named]


def _globbed(pattern: str) -> list[Path]:
    found = sorted(glob.glob(str(_absolute(pattern)), recursive=True))  # noqa: PTH207
    paths = [_absolute(name) for name in found]
    wanted = [p for p in paths if p.is_dir() or _is_image(p.name)]
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
