"""Sidecars: a text file beside each image, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs.files import write_atomically
from joycap_vllm.outputs.text import Dressing, dress, join

Existing = Literal["skip", "overwrite", "append", "prepend"]


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """Where sidecars go and what stands in them.

    Args:
        prompts: Names of the job's prompts; the first gets the plain name.
        tag_prompts: Those of them whose answers are tags.
        extension: Such as `.txt`.
        out: Folder of a mirrored tree; None puts sidecars beside the images.
        root: The input root that the mirrored tree mirrors.
        together: Whether all prompts share one file, a line each (dual_caption's form).
        existing: What a sidecar means that is there and not empty.
        dressing: What is put around captions.
    """

    prompts: tuple[str, ...]
    root: Path
    tag_prompts: frozenset[str] = frozenset()
    extension: str = ".txt"
    out: Path | None = None
    together: bool = False
    existing: Existing = "skip"
    dressing: Dressing = field(default_factory=Dressing)

    def endings(self) -> dict[str, str]:
        """What is added to an image's stem, by prompt."""
        first, *others = self.prompts
        shared = self.extension
        return {first: shared} | {
            name: shared if self.together else f".{name}{self.extension}" for name in others
        }


@dataclass(frozen=True, slots=True)
class Target:
    """The sidecars of one image, by prompt; with `together` the same for all."""

    files: Mapping[str, Path]

    def filled(self, prompt: str) -> bool:
        """Whether the sidecar is there and says something."""
        try:
            return bool(self.files[prompt].read_bytes().strip())
        except OSError:
            return False


def assign_stems(names: Sequence[str], endings: Sequence[str]) -> dict[str, str]:
    """A stem for each file name of a folder so that no two share a sidecar.

    The first by name keeps its plain stem (`a.jpg` has `a.txt`), the others take the whole name
    (`a.png` has `a.png.txt`).
    """
    taken: set[str] = set()
    stems: dict[str, str] = {}
    for name in sorted(names):
        stem = Path(name).stem
        while any(stem + ending in taken for ending in endings):
            stem = name if stem == Path(name).stem else f"{stem}_"
        taken.update(stem + ending for ending in endings)
        stems[name] = stem
    return stems


class Sidecars:
    """Writes captions to sidecars; the caller sees to it that they are safe in a journal."""

    def __init__(self, options: SidecarOptions) -> None:
        self.options = options
        self._endings = options.endings()

    def targets(self, folder: Path, names: Sequence[str]) -> tuple[dict[str, Target], list[str]]:
        """The sidecars of a folder's images, and the names that could not keep their stem."""
        stems = assign_stems(names, list(dict.fromkeys(self._endings.values())))
        place = folder
        if self.options.out is not None:
            inside = folder.is_relative_to(self.options.root)
            place = self.options.out / (
                folder.relative_to(self.options.root) if inside else folder.relative_to("/")
            )
        targets = {
            name: Target({p: place / (stem + e) for p, e in self._endings.items()})
            for name, stem in stems.items()
        }
        return targets, [name for name, stem in stems.items() if stem != Path(name).stem]

    def write(self, target: Target, captions: Mapping[str, str]) -> None:
        """Writes what can be written of an image's captions, each file at most once.

        Writing again changes nothing: a file that already says so is left alone. An empty caption
        is never written.

        Args:
            target: The image's sidecars.
            captions: Captions by prompt; a shared file waits until all prompts have theirs.

        Raises:
            OutputError: A file cannot be written.
        """
        dressed = {p: dress(text, self.options.dressing) for p, text in captions.items()}
        dressed = {p: line for p, line in dressed.items() if line}
        if self.options.together:
            if all(p in dressed for p in self.options.prompts):
                lines = [dressed[p] for p in self.options.prompts]
                self._put(target.files[self.options.prompts[0]], "\n".join(lines), tags=False)
            return
        for prompt, line in dressed.items():
            self._put(target.files[prompt], line, tags=prompt in self.options.tag_prompts)

    def _put(self, path: Path, line: str, *, tags: bool) -> None:
        try:
            old = path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            old = ""
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}", error.errno) from error
        if old and self.options.existing == "append":
            line = old if old.endswith(line) else join(old, line, tags=tags)
        elif old and self.options.existing == "prepend":
            line = old if old.startswith(line) else join(line, old, tags=tags)
        if line == old:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path.parent} cannot be made: {error.strerror}", error.errno
            ) from error
        write_atomically(path, line.encode("utf-8", "replace"))
