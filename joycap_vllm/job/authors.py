"""Who wrote a sidecar: the job, or somebody else."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from joycap_vllm.errors import OutputError, UsageError
from joycap_vllm.job.edits import state_of
from joycap_vllm.job.records import read_file
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.job.table import Seen
from joycap_vllm.outputs import dress
from joycap_vllm.sources import IMAGE_SUFFIXES


def is_foreign(line: str, job: StoredJob) -> bool:
    """Whether a line of a sidecar is none of the captions that its job ever had.

    It is not where the line says nothing, or where no journal tells.
    """
    known = _known(job)
    return known is not None and bool(line.strip()) and line.strip() not in known[0]


def is_accepted(line: str, job: StoredJob) -> bool:
    """Whether a person said of a line of a sidecar, in Review, that it is right."""
    known = _known(job)
    return known is not None and bool(line.strip()) and line.strip() in known[1]


def _known(job: StoredJob) -> tuple[Seen, Seen] | None:
    """As `_captions`; None where no journal tells."""
    try:
        journals = sorted(job.state.glob("journal-*.jsonl"))
        known = _captions(job, tuple((path, path.stat().st_size) for path in journals))
    except (OSError, OutputError, UsageError):
        return None
    return known if journals else None


@lru_cache(maxsize=2)
def _captions(job: StoredJob, journals: tuple[tuple[Path, int], ...]) -> tuple[Seen, Seen]:
    """All captions that the job ever had, as they stand in sidecars; and those by hand."""
    known, by_hand, tagged = Seen(), Seen(), job.sidecars.tag_prompts
    for path, _ in journals:
        for data, _, _ in read_file(path):
            if data.get("caption") is not None:
                tags = data["prompt"] in tagged
                line = dress(data["caption"], job.sidecars.dressing, tags=tags)
                known.add(line)
                if state_of(data).by_hand:
                    by_hand.add(line)
    return known, by_hand


def has_image(job: StoredJob, path: Path, stem: str) -> bool:
    """Whether an image whose sidecars have this stem belongs to a sidecar's folder."""
    folder, sidecars = path.parent, job.sidecars
    if sidecars.out is not None and folder.is_relative_to(sidecars.out):
        folder = sidecars.root / folder.relative_to(sidecars.out)
    try:
        return stem in _stems(folder, folder.stat().st_mtime_ns)
    except OSError:
        return False


@lru_cache(maxsize=4)
def _stems(folder: Path, _changed: int) -> frozenset[str]:
    images = [each for each in folder.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES]
    return frozenset(name for image in images for name in (image.name, image.stem))
