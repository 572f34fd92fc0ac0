"""Folders and files of this machine as one stream of images, folder by folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from joycap_vllm.sources.image import FilePlace, SourceImage
from joycap_vllm.sources.keys import escaped_name, key_of

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".tga", ".qoi", ".ico", ".psd",
})  # fmt: skip
MASK_FOLDERS = frozenset({"_controls"})
MASK_ENDINGS = ("-masklabel", "-condlabel")  # OneTrainer keeps masks beside its pictures


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Folders and single files of this machine.

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
    may_repeat: ClassVar[bool] = False

    def images(self) -> Iterator[SourceImage]:
        """Every image once, folder by folder, in a stable order; nothing is read ahead but the
        names of one folder."""
        single: dict[Path, list[Path]] = {}
        for file in self.files:
            single.setdefault(file.parent, []).append(file)
        for parent, paths in single.items():
            if not any(parent == tree or tree in parent.parents for tree in self.trees):
                names = sorted({path.name for path in paths}, key=os.fsencode)
                yield from self._images_of(parent, names)
        seen: set[tuple[int, int]] = set()
        for tree in self.trees:
            yield from self._walk(tree, seen)

    def count(self) -> int:
        """How many there are, about: links that lead back are counted anew."""
        return len(self.files) + sum(map(_count, self.trees))

    def _walk(self, tree: Path, seen: set[tuple[int, int]]) -> Iterator[SourceImage]:
        with contextlib.suppress(OSError):
            status = tree.stat()
            if (status.st_dev, status.st_ino) in seen:
                return  # a link back to where the walk has been
            seen.add((status.st_dev, status.st_ino))
        try:
            images, folders = _listed_folder(tree)
        except OSError as error:
            self.unreadable[tree] = error.strerror or str(error)
            return
        yield from self._images_of(tree, images)
        for folder in folders:
            yield from self._walk(tree / folder, seen)

    def _images_of(self, folder: Path, names: Sequence[str]) -> Iterator[SourceImage]:
        inside, before = key_of(folder, self.root), str(folder) + os.sep
        start = "" if inside == "." else inside.rstrip("/") + "/"
        for name in names:
            yield SourceImage(start + escaped_name(name), FilePlace(before + name))


def image_names(folder: Path) -> list[str]:
    """Names of the images right in a folder, sorted; nothing of one that cannot be read."""
    try:
        return _listed_folder(folder)[0]
    except OSError:
        return []


def _listed_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images of a folder and of the folders in it, sorted."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if entry.name[0] != "." and entry.name not in MASK_FOLDERS:
                    folders.append(entry.name)
            elif is_image(entry.name):
                images.append(entry.name)
    return sorted(images, key=os.fsencode), sorted(folders, key=os.fsencode)


def _count(tree: Path) -> int:
    try:
        images, folders = _listed_folder(tree)
    except OSError:
        return 0
    return len(images) + sum(
        _count(tree / name) for name in folders if not (tree / name).is_symlink()
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it as an image will tell


def is_image(name: str) -> bool:
    """Whether a file of this name is an image to caption: no hidden one, and no mask."""
    if name[0] == ".":
        return False
    stem, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() in IMAGE_SUFFIXES and not stem.endswith(MASK_ENDINGS)
