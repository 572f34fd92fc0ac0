"""Results of a batch, judged and recorded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import TransportError, UsageError
from joycap_vllm.fleet import Answer, read_answer
from joycap_vllm.glitch import Question, Tried, find_ending, judge
from joycap_vllm.images import Prepared
from joycap_vllm.job.batch import read_map
from joycap_vllm.job.journal import Journal, make_line
from joycap_vllm.job.records import Records
from joycap_vllm.job.stored import StoredJob

_TOGETHER = 64  # records that are synced at once
_BAD = ("glitched", "failed", "open", "foreign", "damaged")
_LATER = frozenset({408, 409, 425, 429})  # statuses that say nothing about the request


@dataclass(slots=True)
class Imported:
    """What became of results.

    Args:
        outcomes: Tasks by their outcome; `before` those that were recorded before, `open` those
            that got no answer and are left to be asked again, `foreign` results of other jobs,
            `damaged` lines that are no results.
        glitches: Rejected answers by kind.
        problems: The first few that are not ok, for users.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    glitches: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every result is a caption."""
        return not any(self.outcomes[n] for n in _BAD)

    def tell(self, problem: str) -> None:
        """Keeps the first twenty."""
        if len(self.problems) < 20:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class _Result:
    """A line of a result file."""

    custom_id: str
    status: int
    body: bytes
    error: str


async def import_batch(
    job: StoredJob,
    records: Records,
    journal: Journal,
    results: Sequence[Path],
) -> Imported:
    """Judges each result and records its outcome: ok, glitched, or failed where the server refused
    the request. What got no answer stays open, and what was recorded since the batch was made
    stands, so that results may be imported again.

    Args:
        job: The job.
        records: What its journals say.
        journal: Where outcomes go.
        results: Result files, also files of errors.

    Raises:
        UsageError: A file cannot be read.
        OutputError: The journal cannot be written.
    """
    imported = Imported()
    waiting: list[bytes] = []
    seen: set[tuple[str, str]] = set()
    for path in results:
        for number, result in _results(path):
            if result is None:
                imported.outcomes["damaged"] += 1
                imported.tell(f"{path}, line {number}: this is no result of a batch")
                continue
            line = _line(job, records, result, seen, imported)
            if line is not None:
                waiting.append(line)
            if len(waiting) >= _TOGETHER:
                await _append(journal, waiting)
    await _append(journal, waiting)
    return imported


async def _append(journal: Journal, lines: list[bytes]) -> None:
    await asyncio.gather(*(journal.append(line) for line in lines))
    lines.clear()


def _line(
    job: StoredJob,
    records: Records,
    result: _Result,
    seen: set[tuple[str, str]],
    imported: Imported,
) -> bytes | None:
    entry = read_map(job.state, result.custom_id)
    prompt = next((p for p in job.prompts if entry and p.name == entry["prompt"]), None)
    if entry is None or prompt is None:
        imported.outcomes["foreign"] += 1
        imported.tell(f"{result.custom_id}: no request of this job")
        return None
    task = (entry["key"], prompt.name)
    record = records.get(task)
    newer = record is not None and record.at >= entry["t"]
    mended = newer and record is not None and record.outcome == "failed" and result.status == 200
    if task in seen or (newer and not mended):
        imported.outcomes["before"] += 1
        return None
    outcome = _outcome(Question(prompt, entry["text"], entry["seed"]), entry, result)
    imported.outcomes["open" if outcome is None else outcome.outcome] += 1
    if outcome is None:
        imported.tell(f"{entry['key']}: open: {result.error}")
        return None
    if outcome.outcome != "ok":
        imported.tell(f"{entry['key']}: {outcome.glitch or 'failed'}: {outcome.why}")
    imported.glitches.update(a.glitch for a in outcome.attempts if a.glitch)
    seen.add(task)
    return make_line(
        key=entry["key"],
        prompt=prompt.name,
        fingerprint=entry["fp"],
        outcome=outcome,
        image=Prepared(data=b"", mime="", **entry["image"]),
        asked=entry["asked"],
        stem=entry["stem"],
        now=time.time(),
    )


def _outcome(question: Question, entry: dict[str, Any], result: _Result) -> Outcome | None:
    """How the task ends with this result; None where it says nothing about the task."""
    seed, temperature, endpoint = entry["seed"], entry["temperature"], f"batch {result.custom_id}"
    answer = _answer(result)
    if answer is None:
        if not 400 <= result.status < 500 or result.status in _LATER:
            return None
        attempt = Attempt(None, "", seed, temperature, endpoint, 0.0, result.error)
        why = f"the server refuses the request: {result.error}"
        return Outcome("failed", None, why=why, attempts=(attempt,))
    prompt = question.prompt
    verdict = judge(
        answer.text,
        style=prompt.style,
        finish_reason=answer.finish or None,
        prompt=question.text,
        words=prompt.words,
    )
    tried = Tried(answer.text, verdict.glitch, answer.finish, answer.usage.prompt)
    ending = find_ending(question, (tried,), retries=0)
    if ending is None:
        return None
    return Outcome(
        outcome=ending.outcome,
        caption=answer.text.strip() if ending.trimmed is None else ending.trimmed,
        glitch=verdict.glitch,
        why=verdict.why,
        attempts=(Attempt(verdict.glitch, answer.finish, seed, temperature, endpoint, 0.0),),
        finish=answer.finish,
        model=answer.model,
        usage=answer.usage,
        trimmed=ending.trimmed is not None,
    )


def _answer(result: _Result) -> Answer | None:
    if result.status != 200:
        return None
    try:
        return read_answer(result.body)
    except TransportError:
        return None


def _results(path: Path) -> Iterator[tuple[int, _Result | None]]:
    """Each line's number and its result; None where it is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    result = _result(line)
                except (ValueError, TypeError, KeyError, AttributeError):
                    result = None
                yield number, result
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _result(line: bytes) -> _Result:
    data = orjson.loads(line)
    custom_id, response = data["custom_id"], data.get("response") or {}
    if not isinstance(custom_id, str):
        raise TypeError(custom_id)
    body = response.get("body") or {}
    error = data.get("error") or (body.get("error") if isinstance(body, dict) else None)
    status = response.get("status_code") or (0 if error or not body else 200)
    words = error.get("message") if isinstance(error, dict) else error
    return _Result(custom_id, int(status), orjson.dumps(body), str(words or f"status {status}"))
