"""Which tasks there are, and what of them is left to do."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from joycap_vllm.job.journal import Record
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
        todo: Prompts to ask.
        done: Records that stand, by prompt; their captions may have to be written again.
        skipped: Tasks that need nothing: captioned before, or their sidecar says something.
    """

    image: SourceImage
    target: Target
    todo: tuple[Prompt, ...]
    done: Mapping[str, Record]
    skipped: int


@dataclass(slots=True)
class Survey:
    """What a look through all inputs found before anything is asked."""

    images: int = 0
    tasks: int = 0
    todo: int = 0
    renamed: int = 0
    renamed_shown: list[str] = field(default_factory=list)
    first: list[PlannedImage] = field(default_factory=list)


class Plan:
    """The images of this run as a stream; walking it again finds the same.

    Args:
        settings: The job.
        records: What the journals say.
    """

    def __init__(self, settings: JobSettings, records: Mapping[tuple[str, str], Record]) -> None:
        self.settings = settings
        self.sidecars = Sidecars(settings.sidecars)
        self._records = records
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
            found.tasks += len(self.settings.prompts)
            found.todo += len(planned.todo)
            if len(found.first) < _SHOWN:
                found.first.append(planned)
        return found

    def images(self, survey: Survey | None = None) -> Iterator[PlannedImage]:
        """This run's images; notes renamed sidecars in `survey`."""
        left = self.settings.limit
        for image, target in self._chosen(survey):
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield self._planned(image, target)

    def _planned(self, image: SourceImage, target: Target) -> PlannedImage:
        done: dict[str, Record] = {}
        todo: list[Prompt] = []
        skipped = 0
        for prompt in self.settings.prompts:
            record = self._records.get((image.key, prompt.name))
            if record is not None and record.fingerprint == self._fingerprints[prompt.name]:
                done[prompt.name] = record
            elif self.settings.sidecars.existing == "skip" and target.filled(prompt.name):
                skipped += 1
            else:
                todo.append(prompt)
        todo += [p for p in self.settings.prompts if p.name in done and _may_mend(done[p.name])]
        return PlannedImage(image, target, tuple(todo), done, skipped)

    def _chosen(self, survey: Survey | None) -> Iterator[tuple[SourceImage, Target]]:
        if self.settings.sample is not None and self._sample is None:
            self._sample = self._draw(self.settings.sample)
        for folder in self.settings.source.folders():
            names = [image.path.name for image in folder.images]
            targets, renamed = self.sidecars.targets(folder.path, names)
            for image in folder.images:
                if not self._mine(image.key):
                    continue
                name = image.path.name
                if survey is not None and name in renamed:
                    survey.renamed += 1
                    if len(survey.renamed_shown) < _SHOWN:
                        sidecar = targets[name].files[self.settings.prompts[0].name]
                        survey.renamed_shown.append(f"{image.key} -> {sidecar.name}")
                yield image, targets[name]

    def _mine(self, key: str) -> bool:
        part, parts = self.settings.shard
        if parts > 1 and _hash(key) % parts != part - 1:
            return False
        return self._sample is None or key in self._sample

    def _draw(self, count: int) -> frozenset[str]:
        keys = (
            image.key
            for folder in self.settings.source.folders()
            for image in folder.images
            if self._mine(image.key)
        )
        return frozenset(heapq.nsmallest(count, keys, key=lambda key: _hash(f"sample {key}")))


def _may_mend(record: Record) -> bool:
    """Whether a failed task is worth a look: the file may have been mended since."""
    return record.outcome == "failed"


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest())
