"""From records and outcomes to sidecars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from joycap_vllm.errors import OutputError
from joycap_vllm.job.plan import Plan, PlannedImage, handed_out
from joycap_vllm.job.problems import Problem
from joycap_vllm.job.progress import Progress
from joycap_vllm.job.records import Record


def write_captions(
    plan: Plan,
    planned: PlannedImage,
    earlier: Mapping[str, Record],
    fresh: Mapping[str, str],
    progress: Progress,
) -> None:
    if not plan.beside:
        return
    if plan.settings.only is not None:
        earlier = {**planned.beside, **earlier} if fresh else {}
    kept = {n: r for n, r in earlier.items() if handed_out(plan.settings, r.outcome)}
    if not kept and not fresh:
        return
    captions = {name: record.caption() for name, record in kept.items()} | dict(fresh)
    recorded = {name: record.at for name, record in kept.items()}
    try:
        replaced = _replaced(plan, planned, captions)
        emptied = plan.sidecars.write(planned.target, captions, recorded, replaced)
    except OutputError as error:
        if error.stops_all:
            raise
        progress.unwritten += 1
        progress.problems.add(Problem("", "unwritten", str(error)))
        return
    for name in emptied:
        progress.unwritten += 1
        why = f"--undesired leaves none of the tags of {name}: no caption is written"
        progress.problems.add(Problem(planned.image.key, "unwritten", why, prompt=name))


def _replaced(plan: Plan, planned: PlannedImage, captions: Iterable[str]) -> dict[str, str]:
    """The captions in whose place this run's go, where not all of a file gives way to them."""
    settings = plan.settings
    if settings.only is None:
        return {name: old for name in captions if (old := plan.asked_again(planned, name))}
    if settings.sidecars.existing not in ("append", "prepend"):
        return {}
    before = {name: planned.before.get(name) for name in captions}
    added = {
        name: record.caption()
        for name, record in before.items()
        if record is not None
        and (handed_out(settings, record.outcome) or settings.replace)
        and record.caption()
    }
    if settings.sidecars.together and len(added) < len(before):
        added = {}  # such a file waits until all of its captions are there
    return dict.fromkeys(before, "") | added if settings.replace else added
