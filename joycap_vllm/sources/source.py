"""Everything that a job reads its images from, as one stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from joycap_vllm.sources.image import SourceImage
from joycap_vllm.sources.local import LocalFiles


class Part(Protocol):
    """Some images of one kind of origin."""

    @property
    def may_repeat(self) -> bool:
        """Whether a key may come twice, so that whoever reads must look out."""

    @property
    def beside(self) -> bool:
        """Whether its images may be files of this machine, beside which something can be put."""

    @property
    def unreadable(self) -> Mapping[Path | str, str]:
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
    def beside(self) -> bool:
        """Whether all images may be files of this machine, as far as is known before reading."""
        return all(part.beside for part in self.parts)

    @property
    def is_files(self) -> bool:
        """Whether all images are files whose keys are their paths."""
        return all(isinstance(part, LocalFiles) for part in self.parts)

    @property
    def unreadable(self) -> dict[Path | str, str]:
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
