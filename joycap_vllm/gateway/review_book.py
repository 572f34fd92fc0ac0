"""A book: captions to look through, in memory, kept up with journals as they grow."""

from __future__ import annotations

import contextlib
import secrets
import threading
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joycap_vllm.gateway.review_files import Inside, Said, digest
from joycap_vllm.job.edits import Done, History, State, edit_of, read_on, state_of
from joycap_vllm.job.lock import is_locked

_VIEWS = 16  # that are kept at once
_RANKS = {"glitched": 0, "failed": 1}


@dataclass(slots=True)
class Item:
    """One caption of one image.

    Args:
        id: Stands for it in addresses.
        key: The image's key.
        prompt: Name of the prompt.
        state: What is known of it.
        at: When that was recorded, in seconds since 1970; 0 where no journal tells.
        place: The journal and the offset of its record.
        stem: The stem of its sidecars, where it is not the file's own.
        attempts: Requests so far.
        counted: The state by which it is counted among the others.
    """

    id: str
    key: str
    prompt: str
    state: State
    at: float = 0.0
    place: tuple[Path, int] | None = None
    stem: str | None = None
    attempts: int = 0
    counted: State | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which captions are wanted; what is empty wants all.

    Args:
        outcome: ok, glitched, failed, or `edited` by a person.
        glitch: Kind of glitch.
        prompt: Name of a prompt.
        text: Stands in the caption or the key, whatever its case.
    """

    outcome: str = ""
    glitch: str = ""
    prompt: str = ""
    text: str = ""

    def takes(self, item: Item) -> bool:
        """Whether it is wanted."""
        state = item.state
        if self.outcome == "edited":
            if not state.by_hand:
                return False
        elif self.outcome and state.outcome != self.outcome:
            return False
        if self.glitch and state.glitch != self.glitch:
            return False
        if self.prompt and item.prompt != self.prompt:
            return False
        return not self.text or self.text in state.caption.lower() or self.text in item.key.lower()


@dataclass(slots=True)
class Facets:
    """How many captions there are of each sort."""

    total: int = 0
    edited: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    glitches: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)

    def add(self, state: State, prompt: str, by: int) -> None:
        """Counts a caption, or with -1 counts it no more."""
        self.total += by
        self.edited += by * state.by_hand
        self.outcomes[state.outcome] += by
        self.prompts[prompt] += by
        if state.glitch and state.outcome != "ok":
            self.glitches[state.glitch] += by

    def as_json(self) -> dict[str, Any]:
        """Plain data, without what there is none of."""
        return {
            "total": self.total,
            "edited": self.edited,
            "outcomes": dict(+self.outcomes),
            "glitches": dict(+self.glitches),
            "prompts": dict(+self.prompts),
        }


class Book(ABC):
    """Captions of one job or folder; its methods block, and may be called from any thread.

    Args:
        root: The folder that keys are relative to.
        state: Folder of the journals.
        inside: The folders that may be used.
    """

    def __init__(self, root: Path, state: Path, inside: Inside) -> None:
        self.root = root
        self.state = state
        self.inside = inside
        self.items: dict[str, Item] = {}
        self.history = History()
        self.lock = threading.RLock()
        self.facets = Facets()
        self.read = 0  # captions read so far, while it is opened
        self._offsets: dict[Path, int] = {}
        self._changes = 0
        self._ordered: tuple[int, list[Item]] = (-1, [])
        self._views: OrderedDict[str, list[Item]] = OrderedDict()
        self._run = secrets.token_hex(4)  # a page may outlive the gateway that made its view
        self._number = 0

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """Names of its prompts."""

    @abstractmethod
    def refresh(self) -> None:
        """Reads what is new, all of it the first time.

        Raises:
            OutputError: A journal cannot be read.
            UsageError: A newer version wrote one.
        """

    @abstractmethod
    def read_on(self) -> None:
        """Reads what the journals have more than last time.

        Raises:
            OutputError, UsageError: As `refresh` does.
        """

    @abstractmethod
    def image_of(self, item: Item) -> Path:
        """Where its picture should be."""

    @abstractmethod
    def sidecar_of(self, item: Item) -> Path | None:
        """Its sidecar; None where captions of this book go into none."""

    @abstractmethod
    def shown(self, item: Item, said: Said) -> str:
        """The caption that a person is shown and edits."""

    def seen(self, _: Item, said: Said) -> str:
        """A digest of what a sidecar says of an item, by which a change is noticed."""
        return said.seen

    @abstractmethod
    def written(self, item: Item, text: str, said: Said) -> tuple[str, str | None]:
        """The caption as it is recorded, and all that its sidecar says then; None leaves it.

        Raises:
            UsageError: Nothing is left of the text.
        """

    @abstractmethod
    def fingerprint(self, item: Item) -> str:
        """Of what is asked now."""

    def last_edit(self) -> tuple[Done, Item] | None:
        """The edit that is taken back next; those of pictures that are gone are passed over."""
        with self.lock:
            for done in self.history.latest():
                item = self.items.get(id_of(done.key, done.prompt))
                if item is not None:
                    return done, item
        return None

    def at_work(self, own: Path | None = None) -> Path | None:
        """The journal of another process that is at work here, if any."""
        for path in sorted(self.state.glob("journal-*.jsonl")):
            if path != own and is_locked(path):
                return path
        return None

    def view(self, wanted: Filter) -> tuple[str, int]:
        """A list of what is wanted as it stands now, the worst first: its name and its length.

        The list stays as it is while captions in it change, so that nothing moves under a reader.
        """
        with self.lock:
            found = [item for item in self._in_order() if wanted.takes(item)]
            self._number += 1
            name = f"{self._run}-{self._number}"
            self._views[name] = found
            while len(self._views) > _VIEWS:
                self._views.popitem(last=False)
            return name, len(found)

    def page(self, view: str, offset: int, count: int) -> list[Item] | None:
        """Part of a view; None where it is not kept any more."""
        with self.lock:
            found = self._views.get(view)
            if found is None:
                return None
            self._views.move_to_end(view)
            return found[offset : offset + count]

    def put(self, item: Item) -> None:
        """Adds an item, or takes note that its state has changed."""
        self._uncount(item)
        item.counted = item.state
        self.facets.add(item.state, item.prompt, 1)
        self.items[item.id] = item
        self._changes += 1

    def forget(self, item: Item) -> None:
        """Leaves an item out."""
        self._uncount(item)
        self.items.pop(item.id, None)
        self._changes += 1

    def _uncount(self, item: Item) -> None:
        if item.counted is not None:
            self.facets.add(item.counted, item.prompt, -1)
            item.counted = None

    def read_journals(self, known: Callable[[str, str], Item | None]) -> None:
        """Reads what journals have more than last time.

        Args:
            known: Gives the item of a key and a prompt, perhaps a new one; None where the record
                is of no interest.
        """
        fresh: list[Done] = []
        for path in sorted(self.state.glob("journal-*.jsonl")):
            start = self._offsets.get(path, 0)
            with contextlib.suppress(OSError):  # reading it will tell
                if path.stat().st_size < start:  # it is another file by now
                    start = 0
            for data, offset, after in read_on(path, start):
                self._offsets[path] = after
                item = known(data["key"], data["prompt"])
                if item is not None:
                    self._take(item, data, (path, offset))
                    edit = edit_of(data)
                    if edit is not None:
                        at = data.get("t") or 0.0
                        fresh.append(Done(item.key, item.prompt, at, edit, state_of(data)))
        for done in sorted(fresh, key=lambda done: done.at):
            self.history.add(done)

    def _take(self, item: Item, data: dict[str, Any], place: tuple[Path, int]) -> None:
        self.read += 1
        item.attempts += len(data.get("attempts") or ())
        at = data.get("t") or 0.0
        if item.place is not None and at < item.at:
            return
        item.at, item.place, item.stem = at, place, data.get("stem")
        item.state = state_of(data)
        self.put(item)

    def _in_order(self) -> Iterable[Item]:
        changes, ordered = self._ordered
        if changes != self._changes:
            number = {name: at for at, name in enumerate(self.prompts)}
            ordered = sorted(
                self.items.values(),
                key=lambda i: (_RANKS.get(i.state.outcome, 2), i.key, number.get(i.prompt, 0)),
            )
            self._ordered = self._changes, ordered
        return ordered


def id_of(key: str, prompt: str) -> str:
    """What stands for a task in addresses."""
    return digest(f"{prompt}\0{key}".encode("utf-8", "surrogatepass"))
