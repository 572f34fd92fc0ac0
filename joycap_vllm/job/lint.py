"""Captions that exist already, judged as answers are: what is found, row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.glitch import Verdict


@dataclass(frozen=True, slots=True)
class Bad:
    """A sidecar with a glitch.

    Args:
        path: Its file.
        prompts: Names of the prompts whose captions are bad; empty where all of the file is.
        state: State folder of the job that made it, where one is known.
        foreign: Whether what is bad in it was not written by that job.
        left: Whether it is to stay: it is foreign, and bad only in how it is put.
    """

    path: Path
    prompts: tuple[str, ...] = ()
    state: Path | None = None
    foreign: bool = False
    left: bool = False


@dataclass(slots=True)
class Findings:
    """What was found in some captions; `ok`, `glitches` and `unreadable` add up to all of them.

    Args:
        rows: A JSON line for each caption, in order.
        ok: Captions without a glitch.
        unreadable: Rows and files that hold no text that can be judged.
        glitches: Captions by the kind of their glitch.
        bad: Sidecars with glitches.
    """

    rows: bytes = b""
    ok: int = 0
    unreadable: int = 0
    glitches: Counter[str] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)

    @property
    def captions(self) -> int:
        """All that was looked at."""
        return self.ok + self.unreadable + self.glitches.total()

    def count(self, other: Findings) -> None:
        """Adds another's counts and bad sidecars; its rows are for whoever shows them."""
        self.ok += other.ok
        self.unreadable += other.unreadable
        self.glitches += other.glitches
        self.bad += other.bad

    def as_json(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {
            "captions": self.captions,
            "ok": self.ok,
            "glitched": self.glitches.total(),
            "unreadable": self.unreadable,
            "glitches": dict(sorted(self.glitches.items())),
        }


class Notes:
    """Findings as they grow.

    Args:
        bad_only: Whether rows of captions without a glitch are left out.
    """

    def __init__(self, *, bad_only: bool) -> None:
        self.findings = Findings()
        self._bad_only = bad_only
        self._rows: list[bytes] = []

    def judged(self, ref: str | int, verdict: Verdict) -> None:
        """A caption that was judged."""
        if verdict.ok:
            self.findings.ok += 1
            if self._bad_only:
                return
        else:
            self.findings.glitches[str(verdict.glitch)] += 1
        self._row(ref, verdict.ok, verdict.glitch, verdict.why)

    def unreadable(self, ref: str | int, why: str) -> None:
        """Something that holds no text."""
        self.findings.unreadable += 1
        self._row(ref, False, None, why)

    def _row(self, ref: str | int, ok: bool, glitch: str | None, why: str) -> None:
        row = {"ok": ok, "glitch": glitch, "why": why, "ref": ref}
        self._rows.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def done(self) -> Findings:
        """All that was found."""
        self.findings.rows = b"".join(self._rows)
        return self.findings
