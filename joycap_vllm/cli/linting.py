"""Runs `joycap lint`: rows out as they are found, then the summary, then what --fix mends."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from joycap_vllm.cli.options import AskFlags, extension_of
from joycap_vllm.cli.talk import say
from joycap_vllm.errors import UsageError
from joycap_vllm.job.lint import Findings
from joycap_vllm.job.lint_rows import lint_rows
from joycap_vllm.job.lint_sidecars import Look, lint_sidecars, still_bad
from joycap_vllm.job.pool import cores


@dataclass(frozen=True, slots=True)
class LintFlags:
    """What was typed; `joycap lint --help` explains each."""

    paths: tuple[Path, ...]
    jsonl: tuple[Path, ...]
    style: Literal["auto", "prose", "tags", "mixed"]
    ext: str | None
    workers: str
    bad_only: bool
    as_json: bool
    fix: bool
    asked: dict[str, Any]
    ask: AskFlags


def run_lint(flags: LintFlags) -> int:
    """Everything that `joycap lint` does; returns the exit code.

    Raises:
        JoycapError: Something cannot be done as it was asked; with --fix, as jobs do.
    """
    if bool(flags.jsonl) == bool(flags.paths):
        raise UsageError("give sidecars or folders, or --jsonl FILE")
    if flags.fix and flags.jsonl:
        raise UsageError("--fix mends sidecars: rows of --jsonl do not tell where their images are")
    began = time.monotonic()
    look = Look(
        None if flags.style == "auto" else flags.style,
        None if flags.ext is None else extension_of(flags.ext),
    )
    total = _show(_found(flags, look), keep_bad=flags.fix)
    _sum_up(total, time.monotonic() - began)
    fixed, code = 0, 0
    try:
        if flags.fix and total.bad:
            from joycap_vllm.cli.fixing import fix

            try:
                code = fix(total.bad, flags.paths, look, flags.asked, flags.ask)
            finally:
                fixed = len(total.bad) - still_bad(total.bad, look)
                say(f"{fixed} of {len(total.bad)} bad captions are good now")
    finally:
        if flags.as_json:
            seconds = round(time.monotonic() - began, 3)
            _write(orjson.dumps(total.as_json() | {"fixed": fixed, "seconds": seconds}) + b"\n")
    if flags.jsonl and total.unreadable and total.unreadable == total.captions:
        raise UsageError('none of the rows is a {"text": ...}')
    return code or int(total.captions - total.ok > fixed)


def _found(flags: LintFlags, look: Look) -> Generator[Findings]:
    workers = _workers(flags.workers)
    if flags.jsonl:
        return lint_rows(flags.jsonl, look.style, bad_only=flags.bad_only, workers=workers)
    return lint_sidecars(flags.paths, look, bad_only=flags.bad_only, workers=workers)


def _workers(text: str) -> int:
    if text == "auto":
        return cores()
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise UsageError(f"--workers is auto or a number of processes, not {text!r}")
    return int(text)


def _show(found: Generator[Findings], *, keep_bad: bool) -> Findings:
    total = Findings()
    with closing(found):
        for findings in found:
            _write(findings.rows)
            if not keep_bad:
                findings.bad.clear()
            total.count(findings)
    return total


def _write(rows: bytes) -> None:
    sys.stdout.buffer.write(rows)
    sys.stdout.buffer.flush()


def _sum_up(total: Findings, seconds: float) -> None:
    glitches = total.glitches.total()
    share = f" ({glitches / total.captions:.2%})" if glitches else ""
    kinds = ", ".join(f"{kind} {count}" for kind, count in total.glitches.most_common())
    unreadable = f"; {total.unreadable} could not be read" if total.unreadable else ""
    say(
        f"{total.captions} captions, {glitches} glitches{share}{kinds and ': '}{kinds}{unreadable} "
        f"in {seconds:.1f} s ({total.captions / max(seconds, 1e-3):.0f}/s)"
    )
