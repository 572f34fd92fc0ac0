"""What is to be done, taken from the plan as it is wanted, and looked at before it begins."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.job.plan import Passed, Plan, PlannedImage, Step
from joycap_vllm.job.progress import Progress
from joycap_vllm.job.writing import write_captions

_SHOWN = 5
_CHUNK = 64  # images handed out at once
_HELD = 1 << 26  # bytes of images that come with their bytes, handed out or looked at ahead
_AHEAD = 4096  # images looked at ahead
_SLICE = 0.1  # seconds of one search off the event loop
_PATIENCE = 2.0  # seconds of looking before work begins


@dataclass(slots=True)
class Survey:
    """What a look at the inputs found before anything is asked.

    Args:
        whole: Whether it saw all of them, or only what comes first.
        images: Images.
        tasks: Their tasks.
        todo: Those of them to ask.
        renamed: Images whose sidecars take the whole name, and some of them to show.
        first: The first images.
        unreadable: What could not be read, and why.
    """

    whole: bool = False
    images: int = 0
    tasks: int = 0
    todo: int = 0
    renamed: int = 0
    renamed_shown: list[str] = field(default_factory=list)
    first: list[PlannedImage] = field(default_factory=list)
    unreadable: dict[Path | str, str] = field(default_factory=dict)

    def note(self, planned: PlannedImage) -> None:
        """Counts an image."""
        self.images += 1
        self.tasks += planned.tasks
        self.todo += len(planned.todo)
        if len(self.first) < _SHOWN:
            self.first.append(planned)
        if planned.stem is not None:
            self.renamed += 1
            if len(self.renamed_shown) < _SHOWN:
                sidecar = next(iter(planned.target.files.values())).name
                self.renamed_shown.append(f"{planned.image.key} -> {sidecar}")


class Agenda:
    """A plan's images with something to do; the others are counted as they are passed.

    Args:
        plan: The plan.
        progress: Counts, filled in.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan = plan
        self.ended = False
        self._progress = progress
        self._steps = plan.steps()
        self._ahead: deque[PlannedImage] = deque()
        self._tasks = 0

    async def look(self, *, all_of_it: bool = False) -> Survey:
        """Looks ahead until there is work and a moment has passed, or to the end where that is
        near; what needs no server is done on the way.

        Args:
            all_of_it: Look through everything, hold nothing, and write nothing.

        Raises:
            OutputError: The disk is full or broken.
        """
        survey, began, held = Survey(), time.monotonic(), 0
        while not self.ended:
            steps = await asyncio.to_thread(self._search, _AHEAD)
            self._count(steps, survey)
            for step in steps:
                if isinstance(step, Passed) or all_of_it:
                    continue
                if step.todo or self._ahead:
                    self._ahead.append(step)
                    held += step.image.held
                else:
                    await asyncio.to_thread(self._settle, step)
            if all_of_it or not self._ahead:
                continue
            if time.monotonic() - began > _PATIENCE or len(self._ahead) >= _AHEAD or held > _HELD:
                break
        survey.whole = self.ended
        self._progress.standing = survey.tasks - survey.todo
        if not self.ended:
            self._progress.standing = len(self.plan.records) // self.plan.settings.shard[1]
            self._progress.counting = True
            self._progress.total = await asyncio.to_thread(self.plan.estimate)
        return survey

    async def take(self) -> list[PlannedImage]:
        """The next images, none where a search found none for a moment or has `ended`."""
        if self._ahead:
            return [self._ahead.popleft() for _ in range(min(_CHUNK, len(self._ahead)))]
        steps = await asyncio.to_thread(self._search, _CHUNK)
        self._count(steps, Survey())
        return [step for step in steps if not isinstance(step, Passed)]

    def _search(self, most: int) -> list[Step]:
        """Steps of some work, or of some time."""
        found: list[Step] = []
        planned = held = 0
        until = time.monotonic() + _SLICE
        while planned < most and held < _HELD and time.monotonic() < until:
            step = next(self._steps, None)
            if step is None:
                self.ended = True
                break
            if not isinstance(step, Passed):
                planned += 1
                held += step.image.held
            elif found and isinstance(found[-1], Passed):
                found[-1].images += step.images
                found[-1].tasks.update(step.tasks)
                continue
            found.append(step)
        return found

    def _count(self, steps: list[Step], survey: Survey) -> None:
        progress = self._progress
        for step in steps:
            if isinstance(step, Passed):
                progress.images += step.images
                for outcome, count in step.tasks.items():
                    progress.add_earlier(outcome, count)
                survey.images += step.images
                survey.tasks += step.tasks.total()
                self._tasks += step.tasks.total()
            else:
                survey.note(step)
                self._tasks += step.tasks
        if self.ended:
            progress.total, progress.counting = self._tasks, False

    def _settle(self, planned: PlannedImage) -> None:
        self._progress.images += 1
        for outcome, count in planned.settled().items():
            self._progress.add_earlier(outcome, count)
        write_captions(self.plan, planned, planned.done, {}, self._progress)
