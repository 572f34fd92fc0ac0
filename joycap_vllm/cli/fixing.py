"""`joycap lint --fix`: the bad ones captioned again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

from joycap_vllm.cli.caption import caption
from joycap_vllm.cli.options import (
    AskFlags,
    CaptionFlags,
    captioner_of,
    rate_of,
    settings_of,
    urls_of,
)
from joycap_vllm.cli.running import INTERRUPTED, run_settings
from joycap_vllm.cli.talk import say
from joycap_vllm.job import StoredJob, ask_again, load_job
from joycap_vllm.job.fix import Mending, by_job, mend
from joycap_vllm.job.lint import Bad
from joycap_vllm.job.lint_sidecars import Look
from joycap_vllm.job.stored import find_job
from joycap_vllm.sources import files_source


def fix(
    bad: Sequence[Bad], given: Sequence[Path], look: Look, asked: dict[str, Any], flags: AskFlags
) -> int:
    """Captions bad sidecars again, job by job.

    Args:
        bad: The sidecars.
        given: The files and folders in which they were found.
        look: How they were read.
        asked: What `joycap caption` would be told, for folders that have no job.
        flags: Where to ask.

    Returns:
        The exit code of a run that could not end, else 0.

    Raises:
        JoycapError: As jobs do.
    """
    for state, root, members in by_job(bad, given):
        job = _job_of(state, root, look, asked, flags)
        if state is not None and any(value is not None for value in asked.values()):
            say(f"{state}: its job's own prompts are asked, not those of the flags")
        mending = mend(job, members)
        _tell(mending)
        if not mending.tasks:
            continue
        settings = ask_again(
            mending.job,
            mending.tasks,
            files_source(mending.job.sidecars.root, mending.images),
            urls=urls_of(flags),
            captioner=captioner_of(flags),
            replace=True,
            max_glitch_rate=rate_of(flags.max_glitch_rate),
            accept_changes=flags.accept_changes,
        )
        if run_settings(settings, flags) == INTERRUPTED:
            return INTERRUPTED
    return 0


def _job_of(
    state: Path | None, root: Path, look: Look, asked: dict[str, Any], flags: AskFlags
) -> StoredJob:
    known = state or find_job(root)
    if known is not None:
        return load_job(known)
    say(
        f"no job is known of {root}: it becomes one of its own (a journal that --journal put "
        "elsewhere is not found from here: `joycap retry` on its folder knows that job)"
    )
    defaults = {name: each.default for name, each in signature(caption).parameters.items()}
    given = {name: value for name, value in asked.items() if value is not None}
    own = {"inputs": [str(root)], "ext": look.ending}
    return settings_of(CaptionFlags(**(defaults | asdict(flags) | given | own))).stored()


def _tell(mending: Mending) -> None:
    _name(mending.homeless, "is left: there is no image of it")
    _name(mending.left, "is left: its job did not write it, and it is only put in another way")
    if mending.foreign:
        say(f"{mending.foreign} were not written by this job; they are captioned again too")
    if mending.by_hand:
        say(f"{mending.by_hand} of them were changed by hand since; they are captioned again too")


def _name(paths: Sequence[Path], why: str) -> None:
    for path in paths[:5]:
        say(f"{path} {why}")
    if len(paths) > 5:
        say(f"... and {len(paths) - 5} more, {len(paths)} in all")
