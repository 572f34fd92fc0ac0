"""Sidecars: a text file beside each image, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs.files import write_atomically
from joycap_vllm.outputs.text import Dressing, dress, exchange, join

# Seconds; a file system's clock may stand a little behind the one that records are stamped with.
_CLOCK = 0.05
Existing = Literal["skip", "overwrite", "append", "prepend", "replace"]


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
        existing: What a sidecar means that is there and not empty; `replace` overwrites it too,
            but keeps a shared file's lines of which no new caption comes.
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


def stem_of(name: str) -> str:
    """A file's name without its extension, as `Path.stem`, but quick."""
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name


def assign_stems(
    names: Iterable[str], endings: Sequence[str], kept: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A stem for each file name of a folder so that no two share a sidecar.

    The first by name keeps its plain stem (`a.jpg` has `a.txt`), the others take the whole name
    (`a.png` has `a.png.txt`).

    Args:
        names: All images of the folder, whether or not they are asked about.
        endings: What is added to a stem.
        kept: Stems of images that were captioned before; they stay, whatever is added later.
    """
    kept = kept or {}
    taken: set[str] = set()
    stems: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name not in kept, name)):
        stem = kept.get(name) or stem_of(name)
        while any(stem + ending in taken for ending in endings):
            stem = name if stem == stem_of(name) else f"{stem}_"
        taken.update(stem + ending for ending in endings)
        stems[name] = stem
    return stems


class Sidecars:
    """Writes captions to sidecars; the caller sees to it that they are safe in a journal."""

    def __init__(self, options: SidecarOptions) -> None:
        self.options = options
        self._endings = options.endings()

    @property
    def endings(self) -> tuple[str, ...]:
        """What is added to stems, each once."""
        return tuple(dict.fromkeys(self._endings.values()))

    def place(self, folder: Path) -> Path:
        """The folder of the sidecars of a folder's images."""
        if self.options.out is None:
            return folder
        inside = folder.is_relative_to(self.options.root)
        return self.options.out / (
            folder.relative_to(self.options.root) if inside else folder.relative_to("/")
        )

    def target(self, place: Path, stem: str) -> Target:
        """The sidecars of this stem in a folder of sidecars."""
        return Target({prompt: place / (stem + e) for prompt, e in self._endings.items()})

    def stems(self, names: Iterable[str], kept: Mapping[str, str]) -> dict[str, str]:
        """As `assign_stems`, with this job's endings."""
        return assign_stems(names, self.endings, kept)

    def write(
        self,
        target: Target,
        captions: Mapping[str, str],
        recorded: Mapping[str, float] | None = None,
        replaced: Mapping[str, str] | None = None,
    ) -> tuple[str, ...]:
        """Writes what can be written of an image's captions, each file at most once.

        An empty caption is never written.

        Returns:
            Prompts of whose captions nothing is left once unwanted tags are dropped.

        Args:
            target: The image's sidecars.
            captions: Captions by prompt; a shared file waits until all prompts have theirs.
            replaced: Captions by prompt that the file holds or that have been joined to what it
                said, and in whose place the new ones go; a file that holds another text is left.
            recorded: When captions of earlier runs were recorded, in seconds since 1970. A file
                that was changed after that holds them already, or what a user made of them, and
                is left alone; so is any that says something, where existing ones are skipped.

        Raises:
            OutputError: A file cannot be written, holds text that is not UTF-8, or does not hold
                what is to be replaced.
        """
        dressing, tagged = self.options.dressing, self.options.tag_prompts
        lines = {p: dress(t, dressing, tags=p in tagged) for p, t in captions.items()}
        dressed = {p: line for p, line in lines.items() if line}
        if self.options.existing == "replace" and self.options.together:
            fresh = captions.keys() - (recorded or {}).keys()
            dressed |= {p: line for p, line in self.lines(target).items() if p not in fresh}
        for path, prompts in self._by_file(target, dressed).items():
            at = [(recorded or {}).get(prompt) for prompt in prompts]
            if all(moment is not None for moment in at):
                latest = max(moment for moment in at if moment is not None)
                if self._stands(path, latest):
                    continue
            lasting = {p: dress(t, dressing, tags=p in tagged) for p, t in (replaced or {}).items()}
            self._put(path, {prompt: dressed[prompt] for prompt in prompts}, lasting)
        return tuple(p for p, text in captions.items() if text.strip() and not lines[p])

    def lines(self, target: Target) -> dict[str, str]:
        """What an image's sidecars say, by prompt; nothing of those that say nothing.

        Raises:
            OutputError: A sidecar cannot be read, or is no UTF-8 text.
        """
        wanted = self.options.prompts
        found: dict[str, str] = {}
        for path in dict.fromkeys(target.files[prompt] for prompt in wanted):
            prompts = [prompt for prompt in wanted if target.files[prompt] == path]
            texts = _text_of(path, strict=True).split("\n", len(prompts) - 1)
            found |= {p: t.strip() for p, t in zip(prompts, texts, strict=False) if t.strip()}
        return found

    def holds(self, target: Target, prompt: str, caption: str) -> bool:
        """Whether the sidecar says what this caption looks like there."""
        try:
            tags = prompt in self.options.tag_prompts
            line = dress(caption, self.options.dressing, tags=tags)
            return self.lines(target).get(prompt) == line
        except OutputError:
            return False

    def stand(self, target: Target, recorded: Mapping[str, float]) -> bool:
        """Whether nothing has to be written of captions recorded at these moments, by prompt."""
        return all(
            self._stands(path, max(recorded[prompt] for prompt in prompts))
            for path, prompts in self._by_file(target, recorded).items()
        )

    def _by_file(self, target: Target, dressed: Mapping[str, object]) -> dict[Path, list[str]]:
        wanted = self.options.prompts
        if self.options.together:
            complete = all(prompt in dressed for prompt in wanted)
            return {target.files[wanted[0]]: list(wanted)} if complete else {}
        return {target.files[prompt]: [prompt] for prompt in wanted if prompt in dressed}

    def _stands(self, path: Path, recorded: float) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        return status.st_size > 0 and status.st_mtime >= recorded - _CLOCK

    def _put(self, path: Path, captions: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        joins = self.options.existing in ("append", "prepend")
        old = _text_of(path, strict=joins)
        lines = list(captions.values())
        ours = "\n".join(replaced.get(prompt, line) for prompt, line in captions.items())
        if old and self.options.existing == "skip" and old != ours:
            return
        if old and joins:
            olds = [*old.splitlines(), *[""] * len(lines)]
            merged = [
                self._joined(path, was, prompt, line, replaced.get(prompt))
                for (prompt, line), was in zip(captions.items(), olds, strict=False)
            ]
            lines = [*merged, *(line for line in olds[len(lines) :] if line)]
        text = "\n".join(lines)
        if text == old:
            return
        write_atomically(path, text.encode("utf-8", "replace"), make_folders=True)

    def _joined(self, path: Path, was: str, prompt: str, line: str, replaced: str | None) -> str:
        first, tags = self.options.existing == "prepend", prompt in self.options.tag_prompts
        if replaced is None:
            return join(line, was, tags=tags) if first else join(was, line, tags=tags)
        new = exchange(was, replaced, line, tags=tags, first=first)
        if new is None:
            raise OutputError(
                f"{path} is left as it is: the caption that the job wrote there before cannot be "
                "told from the rest of the text; the new one is kept in the journal"
            )
        return new


def _text_of(path: Path, *, strict: bool) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig", "strict" if strict else "replace").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise OutputError(f"{path} is not UTF-8 text and is left as it is") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}", error.errno) from error
