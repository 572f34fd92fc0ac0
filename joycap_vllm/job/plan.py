"""Which tasks there are, and what of them is left to do."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice

from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Record, Records
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.table import Seen
from joycap_vllm.outputs import Sidecars, Target
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import SourceImage

_PAUSE = 1024  # images between two steps of nothing
_NO_TARGET = Target({})


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image of this run.

    Args:
        image: Where it is.
        target: Its sidecars.
        stem: The stem of its sidecars, where it is not the file's own.
        todo: Prompts to ask.
        done: Records that stand, by prompt; their captions may have to be written again.
        skipped: Tasks that need nothing: captioned before, or their sidecar says something.
        earlier: Attempts of earlier runs, by prompt, where new answers are wanted.
        beside: Records of prompts that this run leaves alone and that share a sidecar with one
            that it asks.
        before: The latest records of all its prompts, in a run of a few tasks.
    """

    image: SourceImage
    target: Target
    stem: str | None
    todo: tuple[Prompt, ...]
    done: Mapping[str, Record]
    skipped: int
    earlier: Mapping[str, int]
    beside: Mapping[str, Record]
    before: Mapping[str, Record]

    @property
    def tasks(self) -> int:
        """Tasks of this run."""
        return self.skipped + len({*self.done, *(prompt.name for prompt in self.todo)})

    def without_bytes(self) -> PlannedImage:
        """The same, without an image's bytes that came with it and are used up."""
        return replace(self, image=self.image.without_bytes()) if self.image.held else self

    def settled(self) -> Counter[str]:
        """Its tasks by outcome where nothing is asked."""
        counts = Counter(record.outcome for record in self.done.values())
        counts["ok"] += self.skipped
        return counts


@dataclass(slots=True)
class Passed:
    """Images that need nothing, counted together: their tasks by outcome, `skipped` among them."""

    images: int = 0
    tasks: Counter[str] = field(default_factory=Counter)


Step = PlannedImage | Passed


class Plan:
    """The images of this run as a stream; walking it again finds the same.

    Args:
        settings: The job.
        records: What the journals say.

    Attributes:
        sidecars: How captions are written beside images.
        records: What the journals said when it was made.
        beside: Whether that is where this job writes them, as it goes.
        repeated: Images left out so far since another one had their key.
    """

    def __init__(self, settings: JobSettings, records: Records) -> None:
        self.settings = settings
        self.repeated = 0
        replaces = settings.only is not None and settings.sidecars.existing in ("skip", "overwrite")
        options = replace(settings.sidecars, existing="replace") if replaces else settings.sidecars
        self.sidecars = Sidecars(options)
        self.beside = settings.form == "txt"
        self.records = records
        self._homes = Homes(self.sidecars, settings.source.root, records)
        self._fingerprints = settings.fingerprints()
        self._sample: frozenset[str] | None = None

    def with_settings(self, settings: JobSettings) -> Plan:
        """The same work with settings that change where it is asked, not what."""
        return Plan(settings, self.records)

    def steps(self) -> Iterator[Step]:
        """What this run has to do: first what no journal tells of, then what one does, whose
        pictures may have changed and whose sidecars may be gone; of those with nothing to do only
        the number. Now and then comes a step of nothing, so that a long search can be left."""
        told = yield from self._new()
        if told:
            yield from self._known()

    def estimate(self) -> int | None:
        """How many tasks this run has, about, before all inputs have been read."""
        settings = self.settings
        images = settings.source.count() if settings.only is None else None
        if images is None:
            return None
        images = -(-images // settings.shard[1])
        for most in (settings.limit, settings.sample):
            images = images if most is None else min(images, most)
        return images * len(settings.prompts)

    def _new(self) -> Generator[Step, None, int]:
        told, seen = 0, Seen() if self.settings.source.may_repeat else None
        for number, image in enumerate(self._mine()):
            if number % _PAUSE == 0:
                yield Passed()
            if self._is_told(image.key):
                told += 1
            elif seen is not None and not seen.add(image.key):
                self.repeated += 1
            else:
                yield from self._step(image)
        return told

    def _known(self) -> Iterator[Step]:
        seen = Seen() if self.settings.source.may_repeat else None
        for number, image in enumerate(self._mine()):
            if number % _PAUSE == 0:
                yield Passed()
            if not self._is_told(image.key):
                continue
            if seen is not None and not seen.add(image.key):
                self.repeated += 1
            else:
                yield from self._step(image)

    def _is_told(self, key: str) -> bool:
        """Whether journals tell of all its tasks, as they are asked now."""
        if not self.records or self.settings.only is not None:
            return False
        records = self.records
        for name, fingerprint in self._fingerprints.items():
            row = records.find(key, name)
            if not row or records.fingerprint(row) != fingerprint:
                return False
            if self._is_asked_again(records.outcome(row), records.glitch(row)):
                return False
        return True

    def _step(self, image: SourceImage) -> Iterator[Step]:
        target, stem = self._homes.of(image) if self.beside else (_NO_TARGET, None)
        planned = self._planned(image, target, stem)
        if self.settings.only is not None and not planned.tasks:
            return
        if planned.todo or self._lacks_output(planned):
            yield planned
        else:
            yield Passed(1, planned.settled())

    def _lacks_output(self, planned: PlannedImage) -> bool:
        """Whether a caption that is known may have to be written."""
        if not self.beside or self.settings.only is not None:
            return False
        recorded = {
            name: record.at
            for name, record in planned.done.items()
            if handed_out(self.settings, record.outcome)
        }
        return not self.sidecars.stand(planned.target, recorded)

    def _mine(self) -> Iterator[SourceImage]:
        """The images that this run is about."""
        settings = self.settings
        if settings.sample is not None and self._sample is None:
            self._sample = self._draw(settings.sample)
        part, parts = settings.shard
        images = settings.source.images()
        if parts > 1:
            images = (image for image in images if _hash(image.key) % parts == part - 1)
        if self._sample is not None:
            images = (image for image in images if image.key in self._sample)
        return images if settings.limit is None else islice(images, settings.limit)

    def targets(self) -> Iterator[tuple[SourceImage, Target, str | None]]:
        """All images of the source with their sidecars and, where it is not their own, the stem."""
        for image in self.settings.source.images():
            yield image, *self._homes.of(image)

    def _planned(self, image: SourceImage, target: Target, stem: str | None) -> PlannedImage:
        before: dict[str, Record] = {}
        done: dict[str, Record] = {}
        beside: dict[str, Record] = {}
        todo: list[Prompt] = []
        skipped = 0
        size, changed = image.facts()
        for prompt in self.settings.prompts:
            record = self.records.get((image.key, prompt.name))
            if record is not None and self.settings.only is not None:
                before[prompt.name] = record
            if not self._wanted(image.key, prompt):
                if record is not None and self.settings.sidecars.together:
                    beside[prompt.name] = record
            elif record is not None and self._stands(record, prompt, size):
                done[prompt.name] = record
                # The file may have been mended since, or be another; its digest will tell.
                newer = _is_later(changed, record.at)
                if record.outcome == "failed" or newer or _is_another(image, record):
                    todo.append(prompt)
            elif self._is_taken(target, prompt, record):
                skipped += 1
            else:
                todo.append(prompt)
        earlier = {prompt.name: self._attempts(image.key, prompt) for prompt in todo}
        return PlannedImage(
            image, target, stem, tuple(todo), done, skipped, earlier, beside, before
        )

    def _wanted(self, key: str, prompt: Prompt) -> bool:
        return self.settings.only is None or (key, prompt.name) in self.settings.only

    def _is_taken(self, target: Target, prompt: Prompt, record: Record | None) -> bool:
        """Whether the sidecar says something that is to stay."""
        leaves = self.settings.sidecars.existing == "skip" and not self.settings.replace
        if not self.beside or not leaves or not target.filled(prompt.name):
            return False
        if record is None:
            return True
        if self.settings.only is None and not self._is_asked_again(record.outcome, record.glitch):
            return True
        return not self.sidecars.holds(target, prompt.name, record.caption())

    def _attempts(self, key: str, prompt: Prompt) -> int:
        record = self.records.get((key, prompt.name))
        if record is None or record.fingerprint != self._fingerprints[prompt.name]:
            return 0
        same_again = self.settings.only is None and record.outcome == "ok"
        return 0 if same_again else record.attempts

    def _stands(self, record: Record, prompt: Prompt, size: int | None) -> bool:
        """Whether the record is about this prompt and picture, and is not to be asked again."""
        if self.settings.only is not None:
            return False
        if record.fingerprint != self._fingerprints[prompt.name]:
            return record.by_hand and _same_size(record.size, size)
        if self._is_asked_again(record.outcome, record.glitch) and not record.by_hand:
            return False
        return record.outcome == "failed" or _same_size(record.size, size)

    def _is_asked_again(self, outcome: str, glitch: str | None) -> bool:
        again = self.settings.again
        return bool(again) and ("all" in again or outcome in again or glitch in again)

    def asked_again(self, planned: PlannedImage, name: str) -> str:
        """The caption that --again gives up; empty where it gives up none."""
        record = self.records.get((planned.image.key, name))
        if record is None or not self._is_asked_again(record.outcome, record.glitch):
            return ""
        return "" if record.by_hand else record.caption()

    def _draw(self, count: int) -> frozenset[str]:
        part, parts = self.settings.shard
        keys = (
            image.key
            for image in self.settings.source.images()
            if parts == 1 or _hash(image.key) % parts == part - 1
        )
        return frozenset(heapq.nsmallest(count, keys, key=lambda key: _hash(f"sample {key}")))


def _is_another(image: SourceImage, record: Record) -> bool:
    """Whether a picture that came with its bytes is not the one that was recorded; of others, which
    take reading for it, the time of change tells."""
    return image.held > 0 and record.sha256 not in (None, image.digest())


def _same_size(recorded: int | None, found: int | None) -> bool:
    """Whether a picture's size tells nothing against its being the one that was recorded."""
    return recorded is None or found is None or recorded == found


def _is_later(changed: float | None, recorded: float) -> bool:
    """Whether a picture was changed after it was recorded, where both times are known."""
    return changed is not None and 0.0 < recorded < changed


def handed_out(settings: JobSettings, outcome: str) -> bool:
    """Whether users get the text of a task that ended so."""
    return outcome == "ok" or (outcome == "glitched" and settings.on_glitch == "keep")


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest())
