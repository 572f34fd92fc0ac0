"""Bad sidecars, and the tasks that make them anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from joycap_vllm.job.again import Task
from joycap_vllm.job.lint import Bad
from joycap_vllm.job.plan import Plan
from joycap_vllm.job.records import Record, read_records
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.stored import StoredJob, absolute
from joycap_vllm.outputs import Target
from joycap_vllm.sources import files_source, image_names, path_of


@dataclass(frozen=True, slots=True)
class Mending:
    """What has to be asked so that bad sidecars become good.

    Args:
        job: The job, which now hands out nothing but captions.
        tasks: Keys and prompts.
        images: The images' files.
        homeless: Bad sidecars of which there is no image.
        left: Bad sidecars that stay, since somebody else put it so.
        by_hand: Bad sidecars that were changed since the job wrote them.
        foreign: Bad sidecars that the job never wrote.
    """

    job: StoredJob
    tasks: frozenset[Task]
    images: tuple[Path, ...]
    homeless: tuple[Path, ...]
    left: tuple[Path, ...]
    by_hand: int
    foreign: int


def mend(job: StoredJob, bad: Sequence[Bad]) -> Mending:
    """Finds the images of bad sidecars.

    Args:
        job: The job that they belong to, or that is to caption them.
        bad: The sidecars.
    """
    job = replace(job, on_glitch="skip")
    left = tuple(each.path for each in bad if each.left)
    wanted = {absolute(each.path): each for each in bad if not each.left}
    records = read_records(job.state)
    plan = Plan(_everything(job, wanted), records)
    tasks: set[Task] = set()
    images: dict[Path, None] = {}
    found: set[Path] = set()
    changed: set[Path] = set()
    foreign: set[Path] = set()
    for image, target, _ in plan.targets():
        for prompt, path in target.files.items():
            one = wanted.get(path)
            if one is None or (one.prompts and prompt not in one.prompts):
                continue
            tasks.add((image.key, prompt))
            images[path_of(image.key, plan.settings.source.root)] = None
            found.add(path)
            if _is_changed(plan, target, prompt, records.get((image.key, prompt))):
                changed.add(path)
            elif one.foreign:
                foreign.add(path)
    homeless = tuple(path for path in wanted if path not in found)
    counts = len(changed), len(foreign - changed)
    return Mending(job, frozenset(tasks), tuple(images), homeless, left, *counts)


def _everything(job: StoredJob, sidecars: Iterable[Path]) -> JobSettings:
    """The job over all images of the folders whose sidecars these are."""
    root, out = job.sidecars.root, job.sidecars.out
    folders = dict.fromkeys(path.parent for path in sidecars)
    if out is not None:
        folders = {
            root / folder.relative_to(out): None for folder in folders if folder.is_relative_to(out)
        }
    files = [folder / name for folder in folders for name in image_names(folder)]
    return JobSettings(files_source(root, files), job.prompts, job.sidecars, job.state)


def _is_changed(plan: Plan, target: Target, prompt: str, record: Record | None) -> bool:
    if record is None or record.outcome != "ok":
        return False
    return not plan.sidecars.holds(target, prompt, record.caption())


def by_job(
    bad: Iterable[Bad], given: Sequence[Path]
) -> Iterator[tuple[Path | None, Path, list[Bad]]]:
    """Bad sidecars by what they belong to.

    Args:
        bad: The sidecars.
        given: The files and folders in which they were found.

    Yields:
        The state folder of the job, where there is one; the folder to caption where there is
        none; and the sidecars.
    """
    groups: dict[tuple[Path | None, Path], list[Bad]] = {}
    for each in bad:
        root = each.state or _given_folder(each.path, given)
        groups.setdefault((each.state, root), []).append(each)
    for (state, root), members in groups.items():
        yield state, root, members


def _given_folder(path: Path, given: Sequence[Path]) -> Path:
    around = [folder for folder in given if folder in path.parents]
    return absolute(min(around, key=lambda folder: len(folder.parts), default=path.parent))
