"""Runs `joycap bench`, and shows what it found."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from joycap_vllm.bench import (
    NOTE,
    Bench,
    BenchOptions,
    Comparison,
    DrawnPictures,
    Measured,
    Pictures,
    given_pictures,
)
from joycap_vllm.captioner import CaptionerOptions
from joycap_vllm.cli.launched import fleet_of
from joycap_vllm.cli.options import api_key
from joycap_vllm.cli.running import INTERRUPTED, Death, serving, unless
from joycap_vllm.cli.talk import say
from joycap_vllm.errors import UsageError
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.images import Limits, Recipe, Wire
from joycap_vllm.prompts import Sampling, build_prompt
from joycap_vllm.sources import WebRules, open_source

_PATIENCE = 30.0  # seconds without any answer that end a bench
_HIGHEST = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFlags:
    """What was typed; `joycap bench --help` explains each."""

    inputs: list[str] | None
    base_urls: list[str] | None
    serve: str | None
    model: str | None
    api_key_file: Path | None
    type_name: str
    max_tokens: int
    concurrency: str
    levels: str
    seconds: float
    timeout: float
    check: bool
    pictures: int
    max_pixels: int
    allow_private_urls: bool
    url_timeout: float
    wire: Wire | str
    recipe: Recipe | None
    compare_vllm_bench: bool
    as_json: bool


def run_bench(flags: BenchFlags) -> int:
    """Everything that `joycap bench` does; returns the exit code.

    Raises:
        JoycapError: As the bench does; what was measured before is printed.
    """
    Image.MAX_IMAGE_PIXELS = None  # pictures are held against --max-pixels before they are read
    options = options_of(flags)
    bench = Bench(options, pictures_of(flags), say)
    say(f"{bench.pictures.words}; {options.seconds:g} s a level")
    try:
        interrupted = asyncio.run(_run(bench, flags.serve))
    finally:
        if flags.as_json and bench.levels:
            typer.echo(orjson.dumps(bench.as_json()).decode())
        elif bench.levels:
            show(bench)
    return INTERRUPTED if interrupted else 0


def options_of(flags: BenchFlags) -> BenchOptions:
    """The bench that the flags describe.

    Raises:
        UsageError: Something in them cannot be.
    """
    wire = None if flags.wire == "auto" else flags.wire
    captioner = CaptionerOptions(
        model=flags.model,
        api_key=api_key(flags.api_key_file),
        wire=wire,  # type: ignore[arg-type]
        recipe=flags.recipe,
        limits=Limits(pixels=flags.max_pixels),
        check=flags.check,
        fleet=FleetOptions(deadline=flags.timeout, patience=_PATIENCE),
    )
    levels = _levels(flags)
    return BenchOptions(
        urls=tuple(fleet_of(flags.base_urls)),
        captioner=captioner,
        prompt=build_prompt(flags.type_name, sampling=Sampling(max_tokens=flags.max_tokens)),
        levels=levels,
        seconds=flags.seconds,
        auto=not levels,
        compare=flags.compare_vllm_bench,
    )


def pictures_of(flags: BenchFlags) -> Pictures:
    """What is sent.

    Raises:
        UsageError: The inputs cannot be read, or hold no picture.
    """
    if not flags.inputs:
        return DrawnPictures()
    rules = WebRules(seconds=flags.url_timeout, private=flags.allow_private_urls)
    most = Limits().file_bytes
    return given_pictures(open_source(flags.inputs, rules), flags.pictures, most)


def _levels(flags: BenchFlags) -> tuple[int, ...]:
    single = flags.concurrency != "auto"
    if single and flags.levels:
        raise UsageError("--concurrency N and --levels cannot be given together")
    texts = [flags.concurrency] if single else [t.strip() for t in flags.levels.split(",") if t]
    for text in texts:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _HIGHEST):
            flag = "--concurrency" if single else "--levels"
            raise UsageError(f"{flag} takes numbers of requests from 1 to {_HIGHEST}, not {text!r}")
    return tuple(dict.fromkeys(int(text) for text in texts))


async def _run(bench: Bench, serve: str | None) -> bool:
    """Runs it; whether it was interrupted."""
    with _interruptible() as interrupted:
        try:
            async with _servers(bench, serve) as death:
                await unless(death, bench.run())
        except asyncio.CancelledError:
            if not interrupted:
                raise
    return bool(interrupted)


@contextlib.asynccontextmanager
async def _servers(bench: Bench, serve: str | None) -> AsyncIterator[Death]:
    if serve is None:
        yield None
        return
    async with serving(serve) as (urls, death):
        bench.options = replace(bench.options, urls=urls)
        yield death


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Lets Ctrl-C and SIGTERM cancel this task; they are noted in the list."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []

    def on_signal(number: int) -> None:
        came.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield came
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def show(bench: Bench) -> None:
    """Prints the table, the verdict and the comparison on stdout."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    told = [m for m in (*bench.levels, bench.auto) if m is not None]
    knee, finding = bench.knee, bench.finding
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in (
        "in flight", "captions/s", "prompt tok/s", "written tok/s", "latency", "95 %", "cached",
        "glitched", "running", "waiting", "client", "",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    for m in sorted(told, key=lambda m: m.level or sys.maxsize):
        table.add_row(*_row(m), "<- knee" if knee is m else "")
    console.print(table)
    for line in _notes(bench, told):
        console.print(line, soft_wrap=True, markup=False)
    if finding is not None:
        console.print(f"limit: {finding.limit}: {finding.why}", soft_wrap=True, markup=False)
        console.print(f"       {finding.advice}", soft_wrap=True, markup=False)
    if bench.comparison is not None:
        _show_comparison(bench.comparison, console)


def _row(m: Measured) -> tuple[str, ...]:
    return (
        f"auto ({m.in_flight:.0f})" if m.level is None else str(m.level),
        f"{m.captions_per_second:.1f}",
        f"{m.prompt_tokens_per_second:,.0f}",
        f"{m.completion_tokens_per_second:,.0f}",
        f"{m.latency:.2f} s",
        f"{m.latency_95:.2f} s",
        f"{m.cached_share:.1%}",
        f"{m.glitch_rate:.1%}",
        "-" if m.running is None else f"{m.running:.0f}",
        "-" if m.waiting is None else f"{m.waiting:.0f}",
        f"{m.client_cores:.2f} cores",
    )


def _notes(bench: Bench, told: list[Measured]) -> Iterator[str]:
    knee, auto = bench.knee, bench.auto
    if auto is not None and knee is not None and knee.answers_per_second:
        share = auto.answers_per_second / knee.answers_per_second
        yield f"auto: {share:.0%} of the knee's rate, with {auto.in_flight:.0f} in flight"
    cached = max((m.cached_share for m in told), default=0.0)
    if bench.pictures.repeated and cached > 0:
        yield "the pictures came more than once: what is cached may come from that"
    failed, why = sum(m.failed for m in told), next((m.why for m in told if m.why), "")
    if failed:
        yield f"{failed} requests had no answer: {why}"


def _show_comparison(comparison: Comparison, console: Console) -> None:
    for turn in comparison.turns:
        told = f"{turn.answers_per_second:.2f} answers/s"
        console.print(f"{turn.who}, {turn.level} in flight, {turn.pictures} pictures: {told}")
    ratio = f"joycap / vllm bench serve: {comparison.ratio:.2f}"
    console.print(f"{ratio} ({NOTE})", soft_wrap=True, markup=False)
