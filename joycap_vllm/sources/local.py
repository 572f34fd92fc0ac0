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
    ".heic", ".heif", ".jxl",
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
    unreadable: dict[Path | str, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = False
    beside: ClassVar[bool] = True

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
        waiting = [tree]
        while waiting:
            folder = waiting.pop()
            with contextlib.suppress(OSError):
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue  # a link back to where the walk has been
                seen.add((status.st_dev, status.st_ino))
            try:
                images, folders = _listed_folder(folder)
            except OSError as error:
                self.unreadable[folder] = error.strerror or str(error)
                continue
            yield from self._images_of(folder, images)
            waiting += [folder / name for name in reversed(folders)]

    def _images_of(self, folder: Path, names: Sequence[str]) -> Iterator[SourceImage]:
        inside, before = key_of(folder, self.root), str(folder) + os.sep
        start = "" if inside == "." else inside.rstrip("/") + "/"
        for name in names:
            yield SourceImage(start + escaped_name(name), FilePlace(before + name))


def image_names(folder: Path) -> list[str]:
    """Names of the images right in a folder, sorted; nothing of one that cannot be read."""
    try:
        return _listed_folder(folder)[0]
    except (OSError, ValueError):
        return []


def _listed_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images of a folder and of the folders in it, sorted."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if is_walked(entry.name):
                    folders.append(entry.name)
            elif is_image(entry.name):
                images.append(entry.name)
    return by_name(images), by_name(folders)


def by_name(names: list[str]) -> list[str]:
    """Names in the order of their bytes, which is that of their text where that is ASCII."""
    if "".join(names).isascii():
        return sorted(names)
    return sorted(names, key=os.fsencode)


def _count(tree: Path) -> int:
    found, waiting = 0, [str(tree)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    found += is_image(entry.name)
                elif not entry.is_symlink() and is_walked(entry.name):
                    waiting.append(entry.path)
    return found


def is_walked(name: str) -> bool:
    """Whether a folder of this name is looked into."""
    return not name.startswith(".") and name not in MASK_FOLDERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it as an image will tell


def is_image(name: str) -> bool:
    """Whether a file of this name is an image to caption: no hidden one, and no mask."""
    dot = name.rfind(".")  # asked for millions of names
    if dot < 1 or name[0] == "." or name[dot:].lower() not in IMAGE_SUFFIXES:
        return False
    return not name.endswith(MASK_ENDINGS, 0, dot)
