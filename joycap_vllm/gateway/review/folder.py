"""The book of a plain folder: pictures with caption files that no job of ours has to have made."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.review.book import Book, Item, id_of
from joycap_vllm.gateway.review.files import Inside, Said
from joycap_vllm.job.edits import State
from joycap_vllm.job.lint_sidecars import Look, judge_text
from joycap_vllm.job.pool import cores, in_order
from joycap_vllm.job.records import state_folder
from joycap_vllm.job.stored import JOB_FILE
from joycap_vllm.outputs import assign_stems
from joycap_vllm.sources import image_names, key_of, path_of

PROMPT = "caption"  # stands in records for a prompt that nobody knows
_ENDINGS = (".txt", ".caption")
_TOGETHER = 256  # caption files that are judged together
_PAUSE = 2.0  # seconds between two looks for new names, at least
_FILE = 1024  # bytes of one, about
_NONE = State("failed", "", None, "it has no caption yet")


class FolderBook(Book):
    """Pictures of a folder and what stands beside them.

    Args:
        root: The folder, absolute.
        inside: The folders that may be used.
    """

    def __init__(self, root: Path, inside: Inside) -> None:
        super().__init__(root, state_folder(root), inside)
        self.ending = _ENDINGS[0]
        self._folders: dict[Path, _Listed] = {}
        self._next_look = 0.0
        self._sidecars: dict[str, Path] = {}

    @property
    def prompts(self) -> tuple[str, ...]:
        """One, of which nothing is known."""
        return (PROMPT,)

    def refresh(self) -> None:
        """Reads folders in which names came or went, and what the journals have more."""
        with self.lock:
            first = not self._folders
            if first:
                self.ending = self._usual_ending()
            began = time.monotonic()
            if began >= self._next_look:
                self._look_around()
                ended = time.monotonic()
                self._next_look = ended + max(_PAUSE, 10 * (ended - began))
            texts = {name: item.state.caption for name, item in self.items.items() if first}
            self.read_journals(self._known)
            for name, text in texts.items():
                if self.items[name].state.caption != text:  # the file was changed since
                    self._judged(self.items[name], *judged(text))

    def read_on(self) -> None:
        """Reads what the journals have more than last time."""
        with self.lock:
            self.read_journals(self._known)

    def image_of(self, item: Item) -> Path:
        """The file that the key names."""
        return path_of(item.key, self.root)

    def sidecar_of(self, item: Item) -> Path:
        """The caption file."""
        return self._sidecars[item.id]

    def shown(self, item: Item, said: Said) -> str:
        """What the file says; where that is news, the item is judged anew."""
        text = _plain(said)
        if text != item.state.caption and not said.trouble:
            self._judged(item, *judged(text))
        return item.state.caption

    def written(self, _: Item, text: str, said: Said) -> tuple[str, str | None]:
        """The text as it was typed; the file keeps its kind of line breaks, and its last one."""
        caption = text.replace("\r\n", "\n").strip()
        if not caption:
            raise UsageError("an empty text is no caption")
        whole, before = caption + "\n", said.text or ""
        whole = whole if before.endswith("\n") else caption
        return caption, whole.replace("\n", "\r\n") if "\r\n" in before else whole

    def fingerprint(self, _: Item) -> str:
        """None: nobody knows what was asked."""
        return ""

    def _known(self, key: str, prompt: str) -> Item | None:
        """The item that takes the record's state; its text is that of the file."""
        if prompt != PROMPT:
            return None
        return self.items.get(id_of(key, PROMPT))

    def _judged(self, item: Item, text: str, glitch: str | None, why: str) -> None:
        if not text:
            item.state = State("failed", "", None, why or _NONE.why)
        else:
            item.state = State("glitched" if glitch else "ok", text, glitch, why)
        self.put(item)

    def _usual_ending(self) -> str:
        with contextlib.suppress(OSError), os.scandir(self.root) as entries:
            found = Counter(Path(entry.name).suffix for entry in entries)
            return max(_ENDINGS, key=lambda ending: found[ending])
        return _ENDINGS[0]

    def _look_around(self) -> None:
        new: list[Item] = []
        seen: set[Path] = set()
        for folder, changed in _folders(self.root):
            seen.add(folder)
            known = self._folders.get(folder)
            if known is None or known.changed != changed:
                new += self._list(folder, changed)
        for folder in [folder for folder in self._folders if folder not in seen]:
            for key in self._folders.pop(folder).keys:
                self._forget(key)
        pieces = [
            _Files(self.inside, tuple(self._sidecars[item.id] for item in new[at : at + _TOGETHER]))
            for at in range(0, len(new), _TOGETHER)
        ]
        if not new:
            return
        found = in_order(pieces, judge_all, workers=cores(), home=__name__)
        verdicts = (verdict for some in found for verdict in some)
        for item, verdict in zip(new, verdicts, strict=True):
            self.read += 1
            self._judged(item, *verdict)

    def _list(self, folder: Path, changed: int) -> Iterator[Item]:
        """Items of a folder that are new."""
        names = image_names(folder)
        known = self._folders.get(folder)
        if known is not None and known.names == names:  # only what files say has changed
            known.changed = changed
            return
        before = {} if known is None else known.keys
        keys: dict[str, Path] = {}
        for name, stem in assign_stems(names, [self.ending]).items():
            keys[key_of(folder / name, self.root)] = folder / (stem + self.ending)
        self._folders[folder] = _Listed(changed, names, keys)
        for key in before.keys() - keys.keys():
            self._forget(key)
        for key, sidecar in keys.items():
            name = id_of(key, PROMPT)
            self._sidecars[name] = sidecar
            if key not in before:
                yield Item(name, key, PROMPT, _NONE)

    def _forget(self, key: str) -> None:
        name = id_of(key, PROMPT)
        if name in self.items:
            self.forget(self.items[name])


def _folders(root: Path) -> Iterator[tuple[Path, int]]:
    """Every folder that belongs to no job of its own, with the time of its last change."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            changed = folder.stat().st_mtime_ns
            with os.scandir(folder) as entries:
                inner = [e.name for e in entries if _is_walked(e)]
        except OSError:
            continue
        yield folder, changed
        waiting += [folder / name for name in inner if not has_job(folder / name)]


def _is_walked(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")


def has_job(folder: Path) -> bool:
    """Whether a folder holds a job of its own."""
    return (folder / ".joycap" / JOB_FILE).is_file()


@dataclass(slots=True)
class _Listed:
    """A folder as it was listed: when it was changed, its pictures, and their caption files."""

    changed: int
    names: list[str]
    keys: dict[str, Path]


@dataclass(frozen=True, slots=True)
class _Files:
    """Caption files that are read and judged together."""

    inside: Inside
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes in them, about."""
        return _FILE * len(self.paths)


def judge_all(files: _Files) -> list[tuple[str, str | None, str]]:
    """Text, kind of glitch and evidence of each file."""
    found = []
    for path in files.paths:
        said = files.inside.said(path)
        text = _plain(said)
        found.append(("", None, said.trouble) if said.trouble else judged(text))
    return found


def judged(text: str) -> tuple[str, str | None, str]:
    """A text with the kind of its glitch and the evidence."""
    if not text:
        return "", None, ""
    verdict = judge_text(text, Look(), Path("caption.txt")).verdict
    return text, verdict.glitch, verdict.why


def _plain(said: Said) -> str:
    return (said.text or "").removeprefix("\ufeff").replace("\r\n", "\n").strip()
