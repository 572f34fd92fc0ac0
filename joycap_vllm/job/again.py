"""Tasks of a job that are asked again: chosen by how they ended, asked as the job was."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from joycap_vllm.captioner import CaptionerOptions
from joycap_vllm.errors import UsageError
from joycap_vllm.glitch import GLITCHES
from joycap_vllm.job.records import Records
from joycap_vllm.job.report import journals_of
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.job.trouble import USUAL_MOST
from joycap_vllm.sources import (
    Source,
    files_source,
    open_source,
    path_of,
    unescaped,
    unescaped_text,
)

Task = tuple[str, str]
ENDINGS = ("glitched", "failed", *GLITCHES)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is asked again.

    Args:
        tasks: Keys and prompts.
        source: Their images, perhaps among others.
        gone: Tasks whose image is no longer there, as far as that is known before the inputs are
            read.
        dropped: Tasks whose prompt the job asks no more.
        outside: Tasks whose key leads out of the job's folder, which no job writes.
    """

    tasks: frozenset[Task]
    source: Source
    gone: int = 0
    dropped: int = 0
    outside: int = 0


def job_folder(path: Path) -> Path:
    """The state folder of a job, from its folder, the state folder itself, or a journal.

    Raises:
        UsageError: There is no journal.
    """
    try:
        return journals_of(path)[0].absolute().parent
    except UsageError as error:
        raise UsageError(
            f"{error}. A job keeps its journal in the folder of its captions (that of --out, where "
            "it had one), or where --journal said: then name that folder"
        ) from error


def choose(
    job: StoredJob,
    records: Records,
    wanted: Collection[str],
    open_inputs: Callable[[Sequence[str]], Source] = open_source,
) -> Chosen:
    """The tasks whose latest record ended as wanted.

    Args:
        job: The job.
        records: What its journals say.
        wanted: Of `glitched`, `failed` and the kinds of glitches.
        open_inputs: Opens what the job read.

    Raises:
        UsageError: Something else is wanted.
    """
    for name in wanted:
        if name not in ENDINGS:
            raise UsageError(f"--only takes one of {', '.join(ENDINGS)}, not {name!r}")
    tasks = {task for task, _ in records.having(wanted)}
    asked = {prompt.name for prompt in job.prompts}
    kept = {task for task in tasks if task[1] in asked}
    source = _inputs_of(job, open_inputs)
    if source is not None:
        return Chosen(frozenset(kept), source, dropped=len(tasks) - len(kept))
    inside = {task for task in kept if _stays_inside(task[0])}
    root = job.sidecars.root
    images = {key: path_of(key, root) for key in sorted({key for key, _ in inside})}
    there = {key: path for key, path in images.items() if os.path.lexists(path)}
    left = frozenset(task for task in inside if task[0] in there)
    return Chosen(
        left,
        files_source(root, tuple(there.values())),
        gone=len(inside) - len(left),
        dropped=len(tasks) - len(kept),
        outside=len(kept) - len(inside),
    )


def _inputs_of(job: StoredJob, open_inputs: Callable[[Sequence[str]], Source]) -> Source | None:
    """What the job read, where keys alone do not name the images' files."""
    try:
        source = open_inputs([unescaped_text(text) for text in job.inputs])
    except UsageError:
        return None
    return None if source.is_files else source


def _stays_inside(key: str) -> bool:
    path = unescaped(key)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in key


def ask_again(
    job: StoredJob,
    tasks: frozenset[Task],
    source: Source,
    *,
    urls: tuple[str, ...],
    captioner: CaptionerOptions,
    replace: bool = False,
    max_glitch_rate: float = USUAL_MOST,
    accept_changes: bool = False,
) -> JobSettings:
    """The settings of a run that asks just these tasks of a job.

    Args:
        job: The job.
        tasks: Keys and prompts.
        source: Their images.
        urls: The fleet.
        captioner: How images are captioned; what it leaves open of the recipe is the job's.
        replace: Whether sidecars give way to new captions, whoever wrote them.
        max_glitch_rate: Part of the tasks that may get a bad answer before the run stops.
        accept_changes: Go on with settings that differ from the journal's.
    """
    recipe = captioner.recipe or job.recipe
    wire = captioner.wire or ("original" if job.original else None)
    return JobSettings(
        source=source,
        prompts=job.prompts,
        sidecars=job.sidecars,
        state=job.state,
        form=job.form,
        out=job.out,
        urls=urls,
        captioner=dataclasses.replace(captioner, recipe=recipe, wire=wire),
        on_glitch=job.on_glitch,
        only=tasks,
        replace=replace,
        max_glitch_rate=max_glitch_rate,
        accept_changes=accept_changes,
    )
