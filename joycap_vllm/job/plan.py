"""Which tasks there are, and what of them is left to do."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice

from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Record
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.outputs import Sidecars, Target
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import SourceImage

_SHOWN = 5


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


@dataclass(slots=True)
class Survey:
    """What a look through all inputs found before anything is asked."""

    images: int = 0
    tasks: int = 0
    todo: int = 0
    renamed: int = 0
    renamed_shown: list[str] = field(default_factory=list)
    first: list[PlannedImage] = field(default_factory=list)

    def note_renamed(self, planned: PlannedImage, prompt: str) -> None:
        """Counts an image whose sidecar takes the whole name, and keeps a few to show."""
        self.renamed += 1
        if len(self.renamed_shown) < _SHOWN:
            sidecar = planned.target.files[prompt].name
            self.renamed_shown.append(f"{planned.image.key} -> {sidecar}")


class Plan:
    """The images of this run as a stream; walking it again finds the same.

    Args:
        settings: The job.
        records: What the journals say.
    """

    def __init__(self, settings: JobSettings, records: Mapping[tuple[str, str], Record]) -> None:
        self.settings = settings
        replaces = settings.only is not None and settings.sidecars.existing in ("skip", "overwrite")
        self.sidecars = Sidecars(
            replace(settings.sidecars, existing="replace") if replaces else settings.sidecars
        )
        self._records = records
        self._homes = Homes(self.sidecars, settings.source.root, records)
        self._fingerprints = settings.fingerprints()
        self._sample: frozenset[str] | None = None

    def with_settings(self, settings: JobSettings) -> Plan:
        """The same work with settings that change where it is asked, not what."""
        return Plan(settings, self._records)

    def survey(self) -> Survey:
        """Counts everything once, so that users know what will happen."""
        found = Survey()
        for planned in self.images(found):
            found.images += 1
            found.tasks += planned.tasks
            found.todo += len(planned.todo)
            if len(found.first) < _SHOWN:
                found.first.append(planned)
        return found

    def images(self, survey: Survey | None = None) -> Iterator[PlannedImage]:
        """This run's images; notes renamed sidecars in `survey`."""
        chosen = self._chosen(survey)
        yield from chosen if self.settings.limit is None else islice(chosen, self.settings.limit)

    def _chosen(self, survey: Survey | None) -> Iterator[PlannedImage]:
        if self.settings.sample is not None and self._sample is None:
            self._sample = self._draw(self.settings.sample)
        for image, target, renamed in self.targets():
            if not self._mine(image.key):
                continue
            planned = self._planned(image, target, renamed)
            if self.settings.only is not None and not planned.tasks:
                continue
            if survey is not None and renamed is not None:
                survey.note_renamed(planned, self.settings.prompts[0].name)
            yield planned

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
        for prompt in self.settings.prompts:
            record = self._records.get((image.key, prompt.name))
            if record is not None and self.settings.only is not None:
                before[prompt.name] = record
            if not self._wanted(image.key, prompt):
                if record is not None and self.settings.sidecars.together:
                    beside[prompt.name] = record
            elif record is not None and self._stands(record, prompt, image):
                done[prompt.name] = record
                if record.outcome == "failed":  # the file may have been mended since
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
        if not leaves or not target.filled(prompt.name):
            return False
        if self.settings.only is None or record is None:
            return True
        return not self.sidecars.holds(target, prompt.name, record.caption())

    def _attempts(self, key: str, prompt: Prompt) -> int:
        record = self._records.get((key, prompt.name))
        if record is None or record.fingerprint != self._fingerprints[prompt.name]:
            return 0
        same_again = self.settings.only is None and record.outcome == "ok"
        return 0 if same_again else record.attempts

    def _stands(self, record: Record, prompt: Prompt, image: SourceImage) -> bool:
        """Whether the record is about this prompt and picture, and is not to be asked again."""
        if self.settings.only is not None:
            return False
        if record.fingerprint != self._fingerprints[prompt.name]:
            return False
        again = self.settings.again
        if "all" in again or record.outcome in again or record.glitch in again:
            return False
        return record.outcome == "failed" or record.size in (None, image.size())

    def _mine(self, key: str) -> bool:
        part, parts = self.settings.shard
        if parts > 1 and _hash(key) % parts != part - 1:
            return False
        return self._sample is None or key in self._sample

    def _draw(self, count: int) -> frozenset[str]:
        keys = (image.key for image in self.settings.source.images() if self._mine(image.key))
        return frozenset(heapq.nsmallest(count, keys, key=lambda key: _hash(f"sample {key}")))


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest())
