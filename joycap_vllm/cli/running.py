"""Runs jobs: says what will happen, shows it happening, sums it up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import typer
from PIL import Image

from joycap_vllm.cli.announcing import announce, show_plan, tell_left_out, tell_passed_over
from joycap_vllm.cli.export import show_exported
from joycap_vllm.cli.launched import started
from joycap_vllm.cli.options import (
    AskFlags,
    CaptionFlags,
    captioner_of,
    rate_of,
    settings_of,
    source_of,
    urls_of,
)
from joycap_vllm.cli.panel import Panel, sum_up
from joycap_vllm.cli.raying import check_ray, hire_of
from joycap_vllm.cli.talk import say as say
from joycap_vllm.errors import JoycapError, NoEndpointError, UsageError
from joycap_vllm.job import (
    Agenda,
    JobSettings,
    Journal,
    Plan,
    Progress,
    StatusFile,
    Stop,
    ask_again,
    check_settings,
    choose,
    export_output,
    job_folder,
    load_job,
    metrics_served,
    read_records,
    run_job,
    told,
)

INTERRUPTED = 130
Death = Coroutine[Any, Any, JoycapError] | None  # ends where a server of ours died


def run_caption(flags: CaptionFlags) -> int:
    """Everything that `joycap caption` does; returns the exit code.

    Raises:
        JoycapError: As the job does.
    """
    check_ray(flags.ray, flags.ray_workers, serves=flags.serve is not None)
    settings = settings_of(flags)
    if flags.dry_run:
        asyncio.run(show_plan(Plan(settings, read_records(settings.state))))
        return 0
    return run_settings(settings, flags)


def run_retry(folder: Path, wanted: frozenset[str], flags: AskFlags) -> int:
    """Everything that `joycap retry` does; returns the exit code.

    Raises:
        JoycapError: As the job does.
    """
    job = load_job(job_folder(folder))
    opener = partial(source_of, flags=flags)
    chosen = choose(job, read_records(job.state), wanted, opener)
    tell_left_out(chosen, job.sidecars.root)
    if not chosen.tasks:
        more = "else " if chosen.gone or chosen.dropped or chosen.outside else ""
        say(
            f"nothing {more}to ask again: no {'other ' if more else ''}task in {job.state} ended "
            f"{' or '.join(sorted(wanted))}"
        )
        if flags.as_json:
            typer.echo(orjson.dumps(Progress().summary().as_json()).decode())
        return int(chosen.gone + chosen.outside > 0)
    settings = ask_again(
        job,
        chosen.tasks,
        chosen.source,
        urls=urls_of(flags),
        captioner=captioner_of(flags),
        max_glitch_rate=rate_of(flags.max_glitch_rate),
        accept_changes=flags.accept_changes,
    )
    return run_settings(settings, flags) or int(chosen.gone + chosen.outside > 0)


def run_settings(settings: JobSettings, flags: AskFlags) -> int:
    """Runs a job, or the tasks of one that are asked again; returns the exit code.

    Raises:
        JoycapError: As the job does.
    """
    Image.MAX_IMAGE_PIXELS = None  # pictures are held against --max-pixels before they are read
    progress, stop = Progress(), Stop()
    try:
        asyncio.run(_run(settings, progress, stop, flags))
    except JoycapError:
        if progress.done:
            sum_up(progress.summary(), progress, settings.state, say)
        raise
    finally:
        summary = progress.summary()
        if flags.as_json and progress.total is not None:
            typer.echo(orjson.dumps(summary.as_json()).decode())
    sum_up(summary, progress, settings.state, say)
    missed = 0 if settings.only is None or stop.asked else len(settings.only) - summary.tasks
    if missed > 0:
        say(f"{missed} are left out: the job's inputs no longer name their images")
    if stop.asked > 1:
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # a worker may hang at a dead disk for ever
    if stop.asked:
        return INTERRUPTED
    incomplete = missed > 0 or progress.unwritten or settings.source.unreadable
    return 1 if summary.glitched or summary.failed or incomplete else 0


async def _run(settings: JobSettings, progress: Progress, stop: Stop, flags: AskFlags) -> None:
    async with contextlib.AsyncExitStack() as around:
        journal = await around.enter_async_context(Journal(settings.state))
        busy = journal.earlier_writer()
        if busy is not None and settings.shard == (1, 1):
            raise UsageError(
                f"another joycap is at work on this job ({busy}); wait for it, or share the work "
                "with --shard I/N on each"
            )
        check_settings(settings)
        panel = around.enter_context(Panel(progress))
        status = StatusFile(settings.state, journal.path, urls=settings.where, shard=settings.shard)
        await around.enter_async_context(told(progress, stop, status, panel))
        await around.enter_async_context(metrics_served(flags.metrics_port, progress))
        progress.waiting_for = "the journals to be read"
        plan = Plan(settings, await asyncio.to_thread(read_records, settings.state))
        progress.waiting_for = "what is left to do to be found"
        agenda = Agenda(plan, progress)
        survey = await agenda.look()
        announce(plan, survey)
        try:
            if survey.todo:
                with _signals(stop) as working:
                    await _work(agenda, journal, progress, stop, working, panel, flags)
            tell_passed_over(plan, survey)
        except NoEndpointError:
            await _export(settings, progress)  # what was captioned so far is of use
            raise
        if stop.asked < 2:
            await _export(settings, progress)


async def _work(
    agenda: Agenda,
    journal: Journal,
    progress: Progress,
    stop: Stop,
    working: Callable[[], None],
    panel: Panel,
    flags: AskFlags,
) -> None:
    """Asks servers, which are started first where that is wished."""
    try:
        progress.waiting_for = "vLLM to start"
        async with _serving(agenda.plan, flags) as (plan, death):
            work = run_job(
                plan,
                agenda,
                journal,
                progress,
                stop=stop,
                ready=working,
                watch=panel,
                say=say,
                hire=hire_of(flags.ray, flags.ray_workers),
            )
            await unless(death, work)
    except asyncio.CancelledError:
        if not stop.asked:
            raise


async def _export(settings: JobSettings, progress: Progress) -> None:
    """Writes the output of a job that is no sidecars."""
    if settings.form == "txt":
        return
    progress.waiting_for = "the output to be written"
    written = await asyncio.to_thread(export_output, settings, say)
    progress.waiting_for = ""
    progress.unwritten += not written.complete
    show_exported(written)


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[Callable[[], None]]:
    """Turns Ctrl-C and SIGTERM into `stop`; until work begins there is nothing to finish."""
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()

    def work_begins() -> None:
        nonlocal starting
        starting = None

    def on_signal() -> None:
        stop()
        if starting is not None:
            starting.cancel()
        elif stop.asked == 1:
            say("stopping: what is in flight is finished first; once more stops at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield work_begins
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _serving(plan: Plan, flags: AskFlags) -> AsyncIterator[tuple[Plan, Death]]:
    """The plan with its servers, and what ends with an error if a server of ours dies."""
    if flags.serve is None:
        await started(plan.settings.urls, say)
        yield plan, None
        return
    async with serving(flags.serve) as (urls, death):
        yield plan.with_settings(replace(plan.settings, urls=urls)), death


@contextlib.asynccontextmanager
async def serving(serve: str) -> AsyncIterator[tuple[tuple[str, ...], Death]]:
    """Servers for the length of a block: their base URLs, and what ends if one of them dies.

    Args:
        serve: What --serve names; `default` is its value where none is given.

    Raises:
        JoycapError: They do not start.
    """
    from joycap_vllm.server import DEFAULT_MODEL, ServeOptions, engine, plan_for

    model = DEFAULT_MODEL if serve == "default" else serve
    # The captioner sends its own test picture.
    options = ServeOptions(model=model, port=_free_port(), check=False)
    servers = await asyncio.to_thread(plan_for, options, on_line=say)
    say(f"starting vLLM with {model}: half a minute, or as long as a download takes")
    async with engine(servers, on_line=say) as running:
        yield running.base_urls, running.wait()


async def unless(death: Death, work: Coroutine[Any, Any, None]) -> None:
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
