"""What a job did, from its journals, read once from front to back."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.job.records import read_file, state_folder
from joycap_vllm.job.table import Table, digest_of
from joycap_vllm.job.timeline import Counts, Latencies, Timeline

_MOST_TOKENS = 1 << 32  # of one task; what is more is no count
_REASONS = 1000  # reasons of failures that are told apart


class Troubled(NamedTuple):
    """A task that is not ok, or took more than one request; its record is read when wanted."""

    key: str
    prompt: str
    outcome: str
    glitch: str | None
    requests: int
    reason: str
    at: float
    journal: Path
    offset: int
    length: int

    def record(self) -> dict[str, Any]:
        """Its whole record."""
        with self.journal.open("rb") as file:
            file.seek(self.offset)
            data: dict[str, Any] = orjson.loads(file.read(self.length))
        return data


@dataclass(slots=True)
class PromptCounts:
    """What became of one prompt: outcomes of its tasks, answers, and bad answers by kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    glitches: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class EndpointCounts:
    """What one endpoint did: requests, bad answers, requests that broke, latencies."""

    requests: int = 0
    glitches: int = 0
    errors: int = 0
    latencies: Latencies = field(default_factory=Latencies)


@dataclass(slots=True)
class Report:
    """Counts over all journals of a job; of a task recorded twice the later record counts.

    Args:
        prompts: By prompt.
        endpoints: By base URL.
        models: Tasks by the name of the model.
        tokens: Prompt, cached and completion tokens.
        timeline: When what happened.
        reasons: Why tasks failed, with `#` for numbers, and how often.
        troubled: Tasks with trouble, the worst first.
        damaged: Lines that are no records.
        journals: The files read, with the folders where their images may be.
    """

    prompts: dict[str, PromptCounts] = field(default_factory=dict)
    endpoints: dict[str, EndpointCounts] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    timeline: Timeline = field(default_factory=Timeline)
    reasons: Counter[str] = field(default_factory=Counter)
    troubled: list[Troubled] = field(default_factory=list)
    damaged: int = 0
    requests: int = 0
    journals: dict[Path, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def outcomes(self) -> Counter[str]:
        """Tasks by outcome."""
        return sum((prompt.outcomes for prompt in self.prompts.values()), Counter())

    @property
    def glitches(self) -> Counter[str]:
        """Bad answers by kind."""
        return sum((prompt.glitches for prompt in self.prompts.values()), Counter())

    @property
    def answers(self) -> int:
        """Answers, good or bad."""
        return sum(prompt.answers for prompt in self.prompts.values())

    @property
    def seconds(self) -> float:
        """Seconds from the first record to the last."""
        return max(self.timeline.ended - self.timeline.began, 0.0)

    def problems(self) -> Iterator[Troubled]:
        """Tasks without a caption, the worst first."""
        return (task for task in self.troubled if task.outcome != "ok")


def journals_of(path: Path) -> list[Path]:
    """The journal files of a job folder, a state folder, or a single journal.

    Raises:
        UsageError: There are none.
    """
    if path.is_file():
        return [path]
    for folder in (path / ".joycap", path, state_folder(path.absolute())):
        found = sorted(folder.glob("journal-*.jsonl"))
        if found:
            return found
    raise UsageError(f"no journal in {path}; give the folder of a job, or a journal file")


def make_report(paths: Sequence[Path]) -> Report:
    """Reads journals; a file that is named twice is read once.

    Raises:
        UsageError: A path holds no journal.
        OutputError: A journal cannot be read.
    """
    reading = _Reading()
    for path in paths:
        for journal in journals_of(path):
            whole = journal.absolute()
            if whole not in reading.report.journals:
                reading.report.journals[whole] = _roots(whole.parent, path)
                reading.read(whole)
    return reading.finish()


def _roots(state: Path, given: Path) -> tuple[Path, ...]:
    """The folders that keys may be relative to, the likeliest first."""
    roots = []
    # Missing where the job keeps its journal in the folder of its images.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        root = Path(orjson.loads((state / "job.json").read_bytes())["settings"]["root"])
        if root.is_absolute() and ".." not in root.parts:
            roots.append(root)
    roots.append(state.parent if state.name == ".joycap" else state)
    return (*dict.fromkeys([*roots, given.absolute()]),)


class _Reading:
    """A report in the making."""

    def __init__(self) -> None:
        self.report = Report()
        # Of a task without trouble only a row of numbers is kept: there may be millions of them.
        self._tasks = Table()
        self._moments = array("d", [0.0])
        self._asked = array("I", [0])  # each task's prompt, by its number
        self._prompts: dict[str, int] = {}
        self._troubled: dict[int, Troubled] = {}

    def read(self, journal: Path) -> None:
        for data, offset, length in read_file(journal, self._damaged):
            self._add(data, journal, offset, length)

    def finish(self) -> Report:
        report = self.report
        tasks = Counter(islice(self._asked, 1, None))
        for prompt, number in self._prompts.items():
            report.prompts[prompt].outcomes["ok"] = tasks[number]
        for task in self._troubled.values():
            outcomes = report.prompts[task.prompt].outcomes
            outcomes["ok"] -= 1
            outcomes[task.outcome] += 1
            report.troubled.append(task)
            if task.outcome == "failed":
                report.reasons[task.reason] += 1
        for counts in report.prompts.values():
            counts.outcomes = +counts.outcomes
        report.troubled.sort(key=lambda t: (t.outcome == "ok", -t.requests, t.key, t.prompt))
        return report

    def _damaged(self) -> None:
        self.report.damaged += 1

    def _add(self, data: dict[str, Any], journal: Path, offset: int, length: int) -> None:
        prompt, outcome = sys.intern(data["prompt"]), sys.intern(data["outcome"])
        attempts = _dicts(data.get("attempts"))
        counts = self.report.prompts.setdefault(prompt, PromptCounts())
        glitches = [str(a["glitch"]) for a in attempts if a.get("glitch")]
        answers = sum(not a.get("error") for a in attempts)
        counts.glitches.update(glitches)
        counts.answers += answers
        self._add_requests(attempts)
        at = _number(data.get("t"))
        if at > 0 and not isinstance(data.get("review"), dict):  # a person is no measure of speed
            happened = Counts(1, outcome == "ok", len(attempts), answers, len(glitches))
            self.report.timeline.add(at, happened)
        usage = _dicts([data.get("usage")])
        for name in ("prompt", "cached", "completion"):
            self.report.tokens[name] += sum(_tokens(one.get(name)) for one in usage)
        if data.get("model"):
            self.report.models[sys.intern(str(data["model"]))] += 1
        row = self._tasks.add(digest_of(data["key"], prompt))
        if not row:
            row = len(self._moments)
            self._moments.append(at)
            self._asked.append(self._prompts.setdefault(prompt, len(self._prompts)))
        elif at < self._moments[row]:
            return
        self._moments[row] = at
        self._troubled.pop(row, None)
        if outcome == "ok" and len(attempts) < 2:
            return
        glitch = sys.intern(str(data["glitch"])) if data.get("glitch") else None
        reason = self._reason(str(data.get("why") or "")) if outcome == "failed" else ""
        self._troubled[row] = Troubled(
            data["key"], prompt, outcome, glitch, len(attempts), reason, at, journal, offset, length
        )

    def _add_requests(self, attempts: list[dict[str, Any]]) -> None:
        self.report.requests += len(attempts)
        for attempt in attempts:
            url = str(attempt.get("endpoint") or "unknown")
            endpoint = self.report.endpoints.setdefault(url, EndpointCounts())
            endpoint.requests += 1
            endpoint.glitches += bool(attempt.get("glitch"))
            endpoint.errors += bool(attempt.get("error"))
            if not attempt.get("error"):
                endpoint.latencies.add(_number(attempt.get("ms")))

    def _reason(self, why: str) -> str:
        reason = re.sub(r"(?<!\w)\d+(?:[.,]\d+)*(?!\w)", "#", why)[:200] or "no reason is recorded"
        known = self.report.reasons  # filled with zeros here, counted at the end
        if reason not in known and len(known) >= _REASONS:
            return "other reasons"
        known.setdefault(reason, 0)
        return sys.intern(reason)


def _dicts(value: object) -> list[dict[str, Any]]:
    """Journals of other versions, or damaged ones, may hold anything."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _tokens(value: object) -> int:
    """Servers may say anything; sums of this still fit into 64 bits."""
    return value if isinstance(value, int) and 0 <= value <= _MOST_TOKENS else 0


def _number(value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return 0.0
