"""What is told before a job begins, and what it passed over."""

from __future__ import annotations

from pathlib import Path

import typer

from joycap_vllm.cli.talk import say
from joycap_vllm.errors import UsageError
from joycap_vllm.job import (
    Agenda,
    Chosen,
    Plan,
    Progress,
    Survey,
    default_out,
    is_writable,
    unknown_names,
)
from joycap_vllm.outputs import TagOptions
from joycap_vllm.prompts import VARIABLES
from joycap_vllm.sources import NO_COLUMNS, without_login

_SHOWN = 3


def tell_left_out(chosen: Chosen, root: Path) -> None:
    """Tells which tasks are not asked again, and why."""
    if chosen.gone and not root.is_dir():
        say(
            f"{chosen.gone} are left out: the folder of their images, {root}, is not there; put it "
            "back, or run `joycap caption` on the folder where they are now, with the same --out"
        )
    elif chosen.gone:
        say(f"{chosen.gone} are left out: their images are gone from {root}")
    if chosen.dropped:
        say(f"{chosen.dropped} are left out: their prompt is asked no more")
    if chosen.outside:
        say(f"{chosen.outside} are left out: the journal names images outside {root}")


def tell_passed_over(plan: Plan, survey: Survey) -> None:
    """Tells what was found after the start."""
    for name, why in plan.settings.source.unreadable.items():
        if name not in survey.unreadable:
            say(f"left out: {name} cannot be read ({why})")
    if plan.repeated:
        say(f"{plan.repeated:,} images are left out: an earlier one has their key")


def _tell_unknown(plan: Plan, survey: Survey) -> None:
    shown = sorted(survey.first, key=lambda planned: not planned.image.columns)[:1]
    for prompt in plan.settings.prompts:
        for planned in shown if prompt.template else ():
            for name in unknown_names(planned, prompt):
                has_row = planned.image.columns is not NO_COLUMNS
                row = "it is left empty in rows without it" if has_row else ""
                say(
                    f"{{{name}}} in the prompt is none of {', '.join(VARIABLES)} and no column of "
                    f"{planned.image.key}: {row or 'it is sent as it stands'}"
                )


def announce(plan: Plan, survey: Survey) -> None:
    """Tells what will be done.

    Raises:
        UsageError: There is nothing to do it with.
    """
    settings = plan.settings
    survey.unreadable |= settings.source.unreadable
    for name, why in survey.unreadable.items():
        say(f"left out: {name} cannot be read ({why})")
    if not survey.images and settings.shard == (1, 1) and settings.only is None:
        inputs = [without_login(text) for text in settings.source.inputs[:_SHOWN]]
        more = ", ..." if len(settings.source.inputs) > _SHOWN else ""
        raise UsageError(f"no image in {', '.join(inputs)}{more}")
    if settings.form == "txt" and not is_writable(settings.sidecars.out or settings.source.root):
        say("sidecars cannot be written there; captions are kept in the journal (see --out)")
    if settings.sidecars.dressing.tags != TagOptions() and not settings.sidecars.tag_prompts:
        say("no caption type of this job is a list of tags: the flags for tags change nothing")
    _tell_unknown(plan, survey)
    if not survey.whole:
        say(
            f"{survey.images:,} images and more, which are counted as the work goes on; journal in "
            f"{settings.state}"
        )
        return
    before = survey.tasks - survey.todo
    why = "done before" if settings.only is None else "left, since their sidecars say other things"
    rest = f", {before} of them {why}" if before else ""
    say(f"{survey.images} images, {survey.tasks} captions{rest}; journal in {settings.state}")
    if survey.renamed:
        shown = ", ".join(survey.renamed_shown)
        more = ", ..." if survey.renamed > len(survey.renamed_shown) else ""
        say(
            f"{survey.renamed} images share their stem with another in the folder; the first by "
            f"name keeps it, the others' sidecars take the whole name: {shown}{more}"
        )


async def show_plan(plan: Plan) -> None:
    """Prints prompts, plan and the first images, and asks nothing."""
    settings = plan.settings
    survey = await Agenda(plan, Progress()).look(all_of_it=True)
    for prompt in settings.prompts:
        typer.echo(f"prompt {prompt.name}:")
        typer.echo(f"  system: {prompt.system}")
        for choice in prompt.choices:
            typer.echo(f"  text (weight {choice.weight:g}): {choice.text}")
        if not prompt.choices:
            typer.echo(f"  text: {prompt.text}")
        typer.echo(f"  sampling: {prompt.sampling}")
    typer.echo(f"fleet: {', '.join(settings.where)}")
    typer.echo(f"journal: {settings.state}")
    if settings.form != "txt":
        typer.echo(f"output: {settings.out or default_out(settings.stored(), settings.form)}")
    typer.echo(f"{survey.images} images, {survey.tasks} captions, {survey.todo} of them to do")
    for planned in survey.first:
        for name in {prompt.name: None for prompt in settings.prompts}:
            file = planned.target.files.get(name)
            typer.echo(f"  {planned.image.key}{'' if file is None else f' -> {file}'}")
    announce(plan, survey)
