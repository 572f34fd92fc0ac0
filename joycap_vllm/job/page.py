"""A report as one page of HTML that holds everything it shows, and runs and fetches nothing."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from joycap_vllm.job.report import Report, Troubled
from joycap_vllm.job.thumbnails import find_image, thumbnails
from joycap_vllm.job.timeline import Interval, moment
from joycap_vllm.outputs import write_atomically

_CSS = Path(__file__).with_name("report.css")
_NUMBER = re.compile(r"[\d.,]*(?: ?(?:%|s|ms))?|-")
_MOST_TEXT = 4000  # characters of a caption, which a loop may make very long


def write_page(report: Report, path: Path, *, title: str, pictures: int = 200) -> None:
    """Writes the page.

    Args:
        report: What is shown.
        path: The file; written whole or not at all.
        title: Heading of the page.
        pictures: Most images that are shown, the worst first.

    Raises:
        OutputError: The file cannot be written.
    """
    write_atomically(path, "".join(_page(report, title, pictures)).encode())


def _page(report: Report, title: str, pictures: int) -> Iterator[str]:
    css = _CSS.read_text(encoding="utf-8")
    digest = base64.b64encode(sha256(css.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{css}</style></head><body>"
        f"<h1>{text(title)}</h1>\n"
    )
    yield _head(report)
    yield _timeline(report.timeline.intervals())
    yield _prompts(report)
    yield _endpoints(report)
    reasons = report.reasons.most_common(20)
    if any(count for _, count in reasons):
        rows = [(reason, count) for reason, count in reasons if count]
        yield f"<h2>Why tasks failed</h2>{_table(('reason', 'tasks'), rows)}\n"
    yield from _images(report, pictures)
    yield "</body></html>\n"


def text(value: object) -> str:
    """Any text as HTML: nothing in it is markup, and what cannot be seen is spelled out."""
    seen = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(value))
    return html.escape("".join(seen).encode("utf-8", "backslashreplace").decode())


def _head(report: Report) -> str:
    outcomes = report.outcomes
    tokens = report.tokens
    facts = [
        ("tasks", f"{outcomes.total():,}"),
        *((name, f"{count:,}") for name, count in sorted(outcomes.items(), reverse=True)),
        ("requests", f"{report.requests:,}"),
        ("bad answers", f"{report.glitches.total() / max(report.answers, 1):.2%}"),
        ("tokens read", f"{tokens['prompt']:,}"),
        ("of them cached", f"{tokens['cached']:,}"),
        ("tokens written", f"{tokens['completion']:,}"),
    ]
    tiles = "".join(f"<div><dt>{text(n)}</dt><dd>{text(v)}</dd></div>" for n, v in facts)
    about = []
    if report.seconds:
        began, ended = moment(report.timeline.began), moment(report.timeline.ended)
        about.append(f"{began} to {ended}")
    if report.models:
        about.append(", ".join(report.models))
    if report.damaged:
        about.append(f"{report.damaged} damaged lines of the journal are left out")
    lines = "".join(f'<p class="soft">{text(line)}</p>' for line in about)
    return f"{lines}<dl>{tiles}</dl>\n"


def _timeline(intervals: Sequence[Interval]) -> str:
    if len(intervals) < 2:
        return ""
    top = max(interval.captions_per_second for interval in intervals) or 1.0
    bars, rows = [], []
    for number, interval in enumerate(intervals):
        counts = interval.counts
        high = 100 * interval.captions_per_second / top
        bad = 100 * counts.glitch_rate
        told = (
            f"{interval.captions_per_second:.1f} captions/s, {counts.glitch_rate:.1%} bad answers"
        )
        bars.append(
            f"<g><title>{moment(interval.start)}: {told}</title>"
            f'<rect class="rate" x="{number * 10}" y="{100 - high:.2f}" width="6" '
            f'height="{high:.2f}"/><rect class="bad" x="{number * 10 + 6.5}" y="{100 - bad:.2f}" '
            f'width="2" height="{bad:.2f}"/></g>'
        )
        rows.append((
            moment(interval.start), f"{interval.captions_per_second:.1f}", counts.outcomes,
            counts.requests, f"{counts.glitch_rate:.1%}",
        ))  # fmt: skip
    table = _table(("from", "captions/s", "tasks", "requests", "bad answers"), rows)
    return (
        f'<h2>Over time</h2><p class="soft">Captions a second (up to {top:.1f}); the narrow bars '
        f'are the share of bad answers</p><svg viewBox="0 0 {len(intervals) * 10} 100" '
        f'preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'
        f"<details><summary>as numbers</summary>{table}</details>\n"
    )


def _prompts(report: Report) -> str:
    kinds = [kind for kind, _ in report.glitches.most_common()]
    outcomes = sorted(report.outcomes, reverse=True)
    rows = [
        [
            name,
            *(counts.outcomes[outcome] for outcome in outcomes),
            counts.answers,
            f"{counts.glitches.total() / max(counts.answers, 1):.2%}",
            *(counts.glitches[kind] for kind in kinds),
        ]
        for name, counts in report.prompts.items()
    ]
    heads = ("prompt", *outcomes, "answers", "bad", *kinds)
    return f"<h2>Prompts, and bad answers by kind</h2>{_table(heads, rows)}\n"


def _endpoints(report: Report) -> str:
    rows = [
        [
            url,
            one.requests,
            f"{one.glitches / max(one.requests - one.errors, 1):.2%}",
            one.errors,
            *(_duration(one.latencies.quantile(part)) for part in (0.5, 0.95)),
        ]
        for url, one in sorted(report.endpoints.items())
    ]
    heads = ("endpoint", "requests", "bad answers", "broken", "half within", "95 % within")
    return f"<h2>Endpoints</h2>{_table(heads, rows)}\n" if rows else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose columns of numbers are set to the right."""
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row] for row in rows]
    right = [all(_NUMBER.fullmatch(row[at]) for row in cells) for at in range(len(heads))]

    def line(tag: str, values: Sequence[str]) -> str:
        marks = (' class="n"' if is_right else "" for is_right in right)
        shown = (f"<{tag}{m}>{text(v)}</{tag}>" for m, v in zip(marks, values, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line("td", row) for row in cells)
    return f'<div class="wide"><table>{line("th", heads)}{body}</table></div>'


def _images(report: Report, most: int) -> Iterator[str]:
    by_image: dict[tuple[Path, str], list[Troubled]] = {}
    for task in report.troubled:
        by_image.setdefault((task.journal.parent, task.key), []).append(task)
    shown = list(islice(by_image.values(), most))
    if not shown:
        return
    some = f" (the worst {len(shown):,} of {len(by_image):,})" if len(shown) < len(by_image) else ""
    yield f"<h2>Images, worst first{some}</h2>\n"
    places = [find_image(tasks[0].key, report.journals[tasks[0].journal]) for tasks in shown]
    yield _sources(shown, places, report)
    for tasks, picture in zip(shown, thumbnails(places), strict=True):
        yield _image(tasks, picture)


def _sources(
    shown: Sequence[Sequence[Troubled]], places: Sequence[Path | None], report: Report
) -> str:
    """Where the pictures come from, which `job.json` may have said: whoever passes the page on
    should know."""
    used: dict[Path, None] = {}
    for tasks, place in zip(shown, places, strict=True):
        if place is not None:
            roots = report.journals[tasks[0].journal]
            used[next(root for root in roots if place.is_relative_to(root))] = None
    folders = ", ".join(map(str, used))
    return f'<p class="soft">pictures from {text(folders)}</p>\n' if used else ""


def _image(tasks: Sequence[Troubled], picture: str | None) -> str:
    key = text(tasks[0].key)
    shown = (
        '<div class="missing">no picture<br>to show</div>'
        if picture is None
        else f'<img src="{picture}" alt="{key}" loading="lazy">'
    )
    told = "".join(_task(task, task.record()) for task in tasks)
    return f"<article>{shown}<div><h3>{key}</h3>{told}</div></article>\n"


def _task(task: Troubled, record: dict[str, Any]) -> str:
    kind = f" {text(task.glitch)}" if task.glitch else ""
    why = f"<p>{text(record.get('why'))}</p>" if record.get("why") else ""
    caption = str(record.get("caption") or "")
    cut = caption[:_MOST_TEXT] + (" …" if len(caption) > _MOST_TEXT else "")
    quote = f'<blockquote dir="auto">{text(cut)}</blockquote>' if caption else ""
    attempts = [one for one in record.get("attempts") or [] if isinstance(one, dict)]
    rows = [
        (number, one.get("glitch") or one.get("error") or "a caption", one.get("finish") or "",
         *(str(one.get(name, "")) for name in ("temperature", "seed")),
         _duration(one.get("ms")), one.get("endpoint"))
        for number, one in enumerate(attempts, 1)
    ]  # fmt: skip
    heads = ("", "result", "finish", "temperature", "seed", "took", "endpoint")
    requests = "1 request" if len(rows) == 1 else f"{len(rows)} requests"
    details = f"<details><summary>{requests}</summary>{_table(heads, rows)}</details>"
    return (
        f'<section class="task"><p><b class="{text(task.outcome)}">{text(task.outcome)}{kind}</b> '
        f'<span class="soft">{text(task.prompt)}</span></p>{why}{quote}{details if rows else ""}'
        "</section>"
    )


def _duration(milliseconds: object) -> str:
    if not isinstance(milliseconds, int | float):
        return ""
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 100 else f"{milliseconds:.0f} ms"
