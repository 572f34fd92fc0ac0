"""What a job did, from its journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.job.records import read_file, state_folder

_MOST = 1000  # failures kept with their reasons


@dataclass(slots=True)
class Report:
    """Counts over all journals of a job; of a task recorded twice the later record counts."""

    outcomes: Counter[str] = field(default_factory=Counter)
    glitches: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    requests: int = 0
    began: float = 0.0
    ended: float = 0.0


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
    """Reads journals.

    Raises:
        UsageError: A path holds no journal.
    """
    latest: dict[tuple[str, str], tuple[float, str, str | None, str]] = {}
    report = Report()
    for path in paths:
        for journal in journals_of(path):
            for data, _, _ in read_file(journal):
                at = float(data.get("t") or 0.0)
                report.began = min(report.began or at, at)
                report.ended = max(report.ended, at)
                attempts = data.get("attempts") or []
                report.requests += len(attempts)
                report.glitches.update(a["glitch"] for a in attempts if a.get("glitch"))
                task = (data["key"], data["prompt"])
                if at >= latest.get(task, (0.0,))[0]:
                    latest[task] = (at, data["outcome"], data.get("glitch"), data.get("why") or "")
    for (key, prompt), (_, outcome, glitch, why) in latest.items():
        report.outcomes[outcome] += 1
        report.prompts[prompt] += 1
        if outcome != "ok" and len(report.problems) < _MOST:
            report.problems.append((key, glitch or outcome, why))
    return report
