"""Runs `joycap caption`: says what will happen, shows it happening, sums it up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import orjson
import typer

from joycap_vllm.cli.options import CaptionFlags, settings_of
from joycap_vllm.cli.panel import Panel, sum_up
from joycap_vllm.errors import JoycapError, UsageError
from joycap_vllm.job import Plan, Progress, Survey, read_records, run_job
from joycap_vllm.job.journal import others_at_work
from joycap_vllm.job.run import Stop, mend_outputs
from joycap_vllm.job.settings import check_settings


def say(text: str) -> None:
    """A line of talk, on stderr; what is no printable text in it is shown escaped."""
    lines = text.split("\n")
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]
    typer.echo("\n".join(shown).encode("utf-8", "backslashreplace").decode(), err=True)


def run_caption(flags: CaptionFlags) -> int:
    """Everything that `joycap caption` does; returns the exit code.

    Raises:
        JoycapError: As the job does.
    """
    settings = settings_of(flags)
    if flags.dry_run:
        plan = Plan(settings, read_records(settings.state))
        _show_plan(plan, plan.survey())
        return 0
    busy = others_at_work(settings.state)
    if busy and settings.shard == (1, 1):
        raise UsageError(
            f"another joycap is at work on this job ({busy[0]}); wait for it, or share the work "
            "with --shard I/N on each"
        )
    settings.state.mkdir(parents=True, exist_ok=True)
    check_settings(settings)
    plan = Plan(settings, read_records(settings.state))
    survey = plan.survey()
    _announce(plan, survey)
    progress, code = asyncio.run(_run(plan, survey, flags))
    summary = progress.summary()
    if flags.as_json:
        typer.echo(orjson.dumps(summary.as_json()).decode())
    sum_up(summary, progress, settings.state, say)
    if code:
        return code
    return 1 if summary.glitched or summary.failed or progress.unwritten else 0


async def _run(plan: Plan, survey: Survey, flags: CaptionFlags) -> tuple[Progress, int]:
    progress, stop = Progress(), Stop()
    progress.total = survey.tasks
    if survey.todo == 0:
        await asyncio.to_thread(mend_outputs, plan, progress)
        return progress, 0
    with _signals(stop) as on_first:
        try:
            async with _serving(plan, flags) as (ready, death):
                on_first(None)
                with Panel(say) as panel:
                    work = run_job(ready, progress, stop=stop, watch=panel, say=say)
                    await _unless(death, work)
        except asyncio.CancelledError:
            if not stop.asked:
                raise
    return progress, 130 if stop.asked else 0


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[Callable[[asyncio.Task[Any] | None], None]]:
    """Turns Ctrl-C and SIGTERM into `stop`; while a server starts, there is nothing to finish."""
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()

    def set_starting(task: asyncio.Task[Any] | None) -> None:
        nonlocal starting
        starting = task

    def on_signal() -> None:
        stop()
        if starting is not None:
            starting.cancel()
        elif stop.asked == 1:
            say("stopping: what is in flight is finished first; once more stops at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield set_starting
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _serving(
    plan: Plan, flags: CaptionFlags
) -> AsyncIterator[tuple[Plan, Coroutine[Any, Any, JoycapError] | None]]:
    """The plan with its servers, and what ends with an error if a server of ours dies."""
    if flags.serve is None:
        yield plan, None
        return
    from joycap_vllm.server import DEFAULT_MODEL, ServeOptions, engine, plan_for

    model = DEFAULT_MODEL if flags.serve == "default" else flags.serve
    # The captioner sends its own test picture.
    options = ServeOptions(model=model, port=_free_port(), check=False)
    servers = await asyncio.to_thread(plan_for, options, on_line=say)
    say(f"starting vLLM with {model}: half a minute, or as long as a download takes")
    async with engine(servers, on_line=say) as running:
        settings = replace(plan.settings, urls=running.base_urls)
        yield plan.with_settings(settings), running.wait()


async def _unless(
    death: Coroutine[Any, Any, JoycapError] | None, work: Coroutine[Any, Any, None]
) -> None:
    """Does the work; a death meanwhile ends it and is raised."""
    if death is None:
        await work
        return
    working, dying = asyncio.create_task(work), asyncio.create_task(death)
    try:
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise dying.result()
    finally:
        for task in (working, dying):
            task.cancel()
        await asyncio.gather(working, dying, return_exceptions=True)
    working.result()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _announce(plan: Plan, survey: Survey) -> None:
    settings = plan.settings
    if not survey.images and settings.shard == (1, 1):
        raise UsageError(f"no image in {settings.source.root}")
    before = survey.tasks - survey.todo
    rest = f", {before} of them done before" if before else ""
    say(f"{survey.images} images, {survey.tasks} captions{rest}; journal in {settings.state}")
    if survey.renamed:
        shown = ", ".join(survey.renamed_shown)
        more = ", ..." if survey.renamed > len(survey.renamed_shown) else ""
        say(
            f"{survey.renamed} images share their stem with another in the folder; the first by "
            f"name keeps it, the others' sidecars take the whole name: {shown}{more}"
        )


def _show_plan(plan: Plan, survey: Survey) -> None:
    settings = plan.settings
    for prompt in settings.prompts:
        typer.echo(f"prompt {prompt.name}:")
        typer.echo(f"  system: {prompt.system}")
        for choice in prompt.choices:
            typer.echo(f"  text (weight {choice.weight:g}): {choice.text}")
        if not prompt.choices:
            typer.echo(f"  text: {prompt.text}")
        typer.echo(f"  sampling: {prompt.sampling}")
    typer.echo(f"fleet: {', '.join(settings.urls)}")
    typer.echo(f"journal: {settings.state}")
    typer.echo(f"{survey.images} images, {survey.tasks} captions, {survey.todo} of them to do")
    for planned in survey.first:
        for name in {prompt.name: None for prompt in settings.prompts}:
            typer.echo(f"  {planned.image.key} -> {planned.target.files[name]}")
    _announce(plan, survey)
