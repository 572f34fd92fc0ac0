"""A report as data for other programs: one line a problem, or everything as JSON."""

from __future__ import annotations

from itertools import islice
from typing import Any

from joycap_vllm.job.report import Report, Troubled

_MOST = 100_000  # problems in the JSON form, which is held in memory as a whole


def line_of(task: Troubled) -> str:
    """Kind, image, reason, prompt and requests of a task, with tabs between and no other breaks."""
    why = str(task.record().get("why") or "")
    fields = (task.glitch or task.outcome, repr(task.key), why, task.prompt, str(task.requests))
    return "\t".join(
        "".join(c if c.isprintable() else repr(c)[1:-1] for c in field) for field in fields
    )


def report_data(report: Report) -> dict[str, Any]:
    """All of a report as plain data; of problems the worst 100,000."""
    problems = list(islice(report.problems(), _MOST))
    return {
        "outcomes": dict(report.outcomes),
        "glitches": dict(report.glitches),
        "prompts": {
            name: {
                "outcomes": dict(counts.outcomes),
                "answers": counts.answers,
                "glitches": dict(counts.glitches),
            }
            for name, counts in report.prompts.items()
        },
        "reasons": {reason: count for reason, count in report.reasons.most_common() if count},
        "requests": report.requests,
        "answers": report.answers,
        "tokens": dict(report.tokens),
        "models": dict(report.models),
        "seconds": round(report.seconds, 3),
        "endpoints": {
            url: {
                "requests": one.requests,
                "glitches": one.glitches,
                "errors": one.errors,
                "ms": {
                    "p50": _rounded(one.latencies.quantile(0.5)),
                    "p95": _rounded(one.latencies.quantile(0.95)),
                },
            }
            for url, one in report.endpoints.items()
        },
        "timeline": [
            {
                "t": interval.start,
                "seconds": round(interval.seconds, 3),
                "captions_per_second": round(interval.captions_per_second, 3),
                "tasks": interval.counts.outcomes,
                "requests": interval.counts.requests,
                "answers": interval.counts.answers,
                "glitches": interval.counts.glitches,
            }
            for interval in report.timeline.intervals(240)
        ],
        "damaged": report.damaged,
        "problems": [_problem(task) for task in problems],
        "problems_left_out": sum(1 for _ in report.problems()) - len(problems),
    }


def _problem(task: Troubled) -> dict[str, Any]:
    return {
        "key": task.key,
        "prompt": task.prompt,
        "outcome": task.outcome,
        "kind": task.glitch or task.outcome,
        "why": task.record().get("why") or "",
        "requests": task.requests,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
