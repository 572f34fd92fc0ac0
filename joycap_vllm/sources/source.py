"""Everything that a job reads its images from, as one stream."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from joycap_vllm.errors import UsageError
from joycap_vllm.sources.image import SourceImage
from joycap_vllm.sources.local import IMAGE_SUFFIXES, LocalFiles, is_image

_LATER_SUFFIXES = frozenset({".jsonl", ".parquet", ".tar"})


class Part(Protocol):
    """Some images of one kind of origin."""

    @property
    def may_repeat(self) -> bool:
        """Whether a key may come twice, so that whoever reads must look out."""

    @property
    def unreadable(self) -> Mapping[Path, str]:
        """What could not be read so far, and why."""

    def images(self) -> Iterator[SourceImage]:
        """The images in a stable order, each time from the first."""

    def count(self) -> int | None:
        """How many there are, about, as far as that can be told without reading them."""


@dataclass(frozen=True, slots=True)
class Source:
    """All inputs of a job.

    Args:
        root: The folder that keys of files are relative to, and where the job keeps what is its.
        parts: The inputs by origin.
        inputs: The inputs as text, from which the same source can be opened anywhere on this
            machine; empty where it was made of files.
    """

    root: Path
    parts: tuple[Part, ...]
    inputs: tuple[str, ...] = ()

    @property
    def may_repeat(self) -> bool:
        """Whether a key may come twice."""
        return len(self.parts) > 1 or any(part.may_repeat for part in self.parts)

    @property
    def is_files(self) -> bool:
        """Whether all images are files whose keys are their paths."""
        return all(isinstance(part, LocalFiles) for part in self.parts)

    @property
    def unreadable(self) -> dict[Path, str]:
        """What could not be read so far, and why."""
        return {path: why for part in self.parts for path, why in part.unreadable.items()}

    def images(self) -> Iterator[SourceImage]:
        """All images in a stable order; nothing is held but what is read at the moment."""
        for part in self.parts:
            yield from part.images()

    def count(self) -> int | None:
        """How many there are, about; None where that takes reading them."""
        counts = [part.count() for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def files_source(root: Path, files: Sequence[Path]) -> Source:
    """Just these files."""
    return Source(root, (LocalFiles(root, (), tuple(files)),))


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
        elif path.suffix.lower() in _LATER_SUFFIXES or "://" in text:
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
            if len(inputs) == 1 or is_image(path.name):
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
    root = Path(os.path.commonpath(roots))
    local = LocalFiles(root, _outermost(trees), tuple(dict.fromkeys(files)))
    return Source(root, (local,), tuple(str(_absolute(text)) for text in inputs))


def _absolute(text: str) -> Path:
    path = Path(text)
    if text.startswith("~") and not path.exists():
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symlinks


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
    wanted = [p for p in paths if p.is_dir() or is_image(p.name)]
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
