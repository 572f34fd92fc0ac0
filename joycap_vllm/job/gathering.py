"""Several jobs' journals looked at as one: parts of a job that machines kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.job.report import journals_of
from joycap_vllm.job.settings import differences_of
from joycap_vllm.job.stored import JOB_FILE, StoredJob, load_job

CLASH = (
    "a caption of another picture that has the same name in another of these jobs; export them "
    "apart"
)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Jobs that asked the same, as one.

    Args:
        job: The first of them that has a `job.json`; without inputs where theirs differ.
        journals: The journals of all, each once.
        roots: By state folder, the folder that the keys of its journals are relative to.
    """

    job: StoredJob
    journals: tuple[Path, ...]
    roots: Mapping[Path, Path] = field(default_factory=dict)

    @property
    def is_one(self) -> bool:
        """Whether it is one job, with all that belongs to it in one folder."""
        return len(self.roots) == 1


def gather(paths: Sequence[Path]) -> Gathered:
    """The jobs of folders (their own, or those of their journals) and of single journals.

    A state folder without a `job.json`, to which only journals were copied, is taken for a part of
    the others. Where jobs differ in how captions are dressed, the first one's way counts.

    Raises:
        UsageError: A path holds no journal, no folder tells how its job was asked, or two of them
            asked something else.
    """
    journals = tuple(dict.fromkeys(_journals(paths)))
    states = tuple(dict.fromkeys(journal.parent for journal in journals))
    told = {state: load_job(state) for state in states if (state / JOB_FILE).exists()}
    first, *others = told.values() or (load_job(states[0]),)  # which says what is missing
    for other in others:
        _must_agree(first, other)
    if any(other.inputs != first.inputs for other in others):
        first = replace(first, inputs=())
    roots = {state: told.get(state, first).sidecars.root for state in states}
    return Gathered(first, journals, roots)


def _journals(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        for journal in journals_of(path):
            yield journal.absolute()


def _must_agree(first: StoredJob, other: StoredJob) -> None:
    lines = [*differences_of(first.prompts, other.prompts)]
    if lines:
        raise UsageError(
            f"the jobs in {first.state} and {other.state} did not ask the same:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nExport each by itself."
        )
