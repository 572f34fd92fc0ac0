"""The report: what journals tell, as lines and as data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.cli.tables import show_report
from joycap_vllm.errors import UsageError
from joycap_vllm.job import make_report, read_records, report_data, write_page
from joycap_vllm.job.timeline import Counts, Latencies, Timeline

from .helping import LOOP, REFUSAL, caption, color_of, joycap, make_pictures
from .journals import Page, attempt, journal, looped, page_of, record
from fault_server import Asked, Reaction, fail, say, serving, truthful


def test_glitches_are_counted_by_kind_and_prompt(tmp_path: Path) -> None:
    retried = record("a", attempts=[attempt("refusal"), attempt("empty"), attempt()])
    journal(tmp_path / ".joycap", retried, record("a", prompt="t"), looped("b", 5, prompt="t"))
    report = make_report([tmp_path])

    assert report.outcomes == {"ok": 2, "glitched": 1}
    assert report.glitches == {"repetition": 5, "refusal": 1, "empty": 1}
    assert report.prompts["d"].glitches == {"refusal": 1, "empty": 1}
    assert report.prompts["t"].glitches == {"repetition": 5}
    assert (report.requests, report.answers) == (9, 9)
    assert report.tokens == {"prompt": 2400, "cached": 1800, "completion": 60}


def test_of_a_task_recorded_twice_the_later_counts_and_all_requests_do(tmp_path: Path) -> None:
    journal(tmp_path, looped("a", 5, t=2e9), looped("b", 5, t=1e9))
    second = record("a", t=1e9), record("b", t=2e9)
    (tmp_path / "journal-host-2.jsonl").write_bytes(b"\n".join(map(orjson.dumps, second)) + b"\n")
    report = make_report([tmp_path, tmp_path / "journal-host-1.jsonl"])

    assert report.outcomes == {"ok": 1, "glitched": 1}
    assert [task.key for task in report.problems()] == ["a"]
    assert report.requests == 12


def test_what_a_person_changed_in_review_counts_but_is_no_speed(tmp_path: Path) -> None:
    captioned = [record(str(n), t=1e9 + n) for n in range(10)]
    edit = {"id": "1", "what": "edit", "undoes": "", "by_hand": True}
    edited = record("3", attempts=[], t=1e9 + 86_400, review=edit)
    asked = record("4", attempts=[attempt()], t=1e9 + 90_000, review=edit | {"what": "again"})
    journal(tmp_path, *captioned, looped("bad", 5, t=1e9 + 2), edited, asked)
    report = make_report([tmp_path])

    assert report.outcomes == {"ok": 10, "glitched": 1}
    assert report.seconds == 9
    assert sum(each.counts.captions for each in report.timeline.intervals()) == 10
    assert report.requests == 16


def test_the_worst_come_first(tmp_path: Path) -> None:
    journal(
        tmp_path,
        record("fine"),
        record("retried", attempts=[attempt("empty"), attempt()]),
        record("unreadable", "failed", attempts=[], why="0 bytes"),
        looped("two", 2),
        looped("five", 5),
    )
    report = make_report([tmp_path])

    assert [t.key for t in report.troubled] == ["five", "two", "unreadable", "retried"]
    assert [t.key for t in report.problems()] == ["five", "two", "unreadable"]


def test_reasons_of_failures_are_gathered_whatever_the_numbers_in_them(tmp_path: Path) -> None:
    rows = [record(str(n), "failed", attempts=[], why=f"it has {n} MB") for n in range(30)]
    journal(tmp_path, *rows, record("x", "failed", why="no image"), record("7", t=2e9))

    assert report_data(make_report([tmp_path]))["reasons"] == {"it has # MB": 29, "no image": 1}


def test_endpoints_have_their_counts_and_latencies(tmp_path: Path) -> None:
    attempts = [attempt(ms=float(ms)) for ms in range(1, 1001)]
    slow = [attempt("empty", endpoint="http://b/v1"), attempt(endpoint="http://b/v1", error="gone")]
    journal(tmp_path, record("a", attempts=attempts), record("b", attempts=slow))
    data = report_data(make_report([tmp_path]))["endpoints"]

    assert data["http://a/v1"]["ms"]["p50"] == pytest.approx(500, rel=0.06)
    assert data["http://a/v1"]["ms"]["p95"] == pytest.approx(950, rel=0.06)
    assert (data["http://b/v1"]["glitches"], data["http://b/v1"]["errors"]) == (1, 1)


def test_damaged_lines_and_records_of_other_versions_are_counted_and_passed_over(
    tmp_path: Path,
) -> None:
    path = journal(
        tmp_path,
        b"\0\0\0",
        b"[1]",
        b'{"key": 1}',
        record("a"),
        {"key": "old", "prompt": "d", "outcome": "ok"},
        record("odd", attempts=[{"ms": None}], usage=None, t=None, model=None),
        record("odder", "failed", attempts=None, why=None, t=None),
    )
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    report = make_report([tmp_path])

    assert report.damaged == 3
    assert report.outcomes == {"ok": 3, "failed": 1}
    assert page_of(tmp_path).tags["article"] == 1
    assert "3 damaged lines" in joycap("report", tmp_path).stderr


@pytest.mark.parametrize(
    "odd",
    [
        {"attempts": 5},
        {"attempts": [3]},
        {"attempts": [attempt(ms="x")]},
        {"attempts": [attempt(ms=1e308)]},
        {"attempts": [attempt(endpoint=["x"])]},
        {"t": "abc"},
        {"t": 1e18},
        {"t": -1e18},
        {"t": [1]},
        {"image": "abc"},
        {"image": {"sha256": 5}},
        {"stem": 7},
        {"fp": {}},
        {"glitch": []},
        {"caption": 5},
        {"usage": {"prompt": 1e300}},
        {"usage": "abc"},
    ],
    ids=str,
)
def test_a_line_whose_values_are_of_other_types_is_damaged(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    journal(tmp_path, record("a") | odd, looped("b", 2) | odd, looped("c", 2), record("d", t=2e9))
    report = make_report([tmp_path])
    show_report(report)
    write_page(report, tmp_path / "page.html", title="Job")

    assert json.loads(orjson.dumps(report_data(report)))["damaged"] == 2
    assert report.outcomes == {"glitched": 1, "ok": 1}
    assert {key for key, _ in read_records(tmp_path)} == {"c", "d"}


def test_counts_beyond_all_measure_still_make_a_report(tmp_path: Path) -> None:
    rows = [record(str(n), usage={"prompt": 2**63, "cached": -5, "completion": 7}) for n in (1, 2)]
    journal(tmp_path, *rows)
    data = json.loads(orjson.dumps(report_data(make_report([tmp_path]))))

    assert (data["outcomes"], data["tokens"]["completion"]) == ({"ok": 2}, 14)


def test_what_holds_no_journal_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no journal"):
        make_report([tmp_path])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(1e9, 2e9), st.booleans()), min_size=1, max_size=200),
    st.integers(1, 30),
)
def test_a_timeline_loses_nothing_and_keeps_to_its_length(
    moments: list[tuple[float, bool]], most: int
) -> None:
    timeline = Timeline()
    for at, ok in moments:
        timeline.add(at, Counts(1, ok, 2, 2, 1))
    found = timeline.intervals(most)

    assert sum(i.counts.outcomes for i in found) == len(moments)
    assert sum(i.counts.captions for i in found) == sum(ok for _, ok in moments)
    assert sorted(i.start for i in found) == [i.start for i in found]
    assert len(found) <= max(most, 386)  # intervals of a month over 32 years
    assert all(i.seconds >= 1 for i in found)


def test_a_week_of_seconds_takes_bounded_memory() -> None:
    timeline = Timeline()
    for second in range(0, 604_800, 3):
        timeline.add(1e9 + second, Counts(1, 1, 1, 1, 0))

    assert len(timeline._cells) <= 4096
    assert sum(i.counts.outcomes for i in timeline.intervals(24)) == 201_600
    assert 7 <= len(timeline.intervals(24)) <= 24
    assert timeline.intervals(24)[3].captions_per_second == pytest.approx(1 / 3, rel=0.01)


@given(st.lists(st.floats(0.1, 1e6), min_size=1), st.floats(0.01, 1))
def test_quantiles_are_right_to_a_twentieth(values: list[float], part: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    found = latencies.quantile(part)
    exact = sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]

    assert found is not None
    assert found == pytest.approx(exact, rel=0.05)


def test_the_command_tells_lines_tables_data_and_a_page(tmp_path: Path) -> None:
    def glitchy(asked: Asked) -> Reaction:
        if asked.color == color_of(1):
            return say(LOOP)
        if asked.color == color_of(2):
            return fail(400, "too <ugly>")
        return (
            say(REFUSAL) if asked.attempt == 1 and asked.color == color_of(3) else truthful(asked)
        )

    make_pictures(tmp_path, 8)
    (tmp_path / "bad\tname.png").write_bytes(b"")
    with serving(glitchy) as server:
        caption(tmp_path, server, "--no-check", "--retries", "2", code=1)
    page = tmp_path / "out" / "report.html"
    page.parent.mkdir()
    done = joycap("report", tmp_path, "--html", page)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    data = json.loads(joycap("report", tmp_path, "--json").stdout)

    assert [line[0] for line in lines] == ["repetition", "failed", "failed"]
    assert {len(line) for line in lines} == {5}
    assert lines[0][1] == "'with space/p 1.png'"
    assert "9 tasks: 6 ok, 1 glitched, 2 failed" in done.stderr
    assert "bad answers" in done.stderr
    assert f"written: {page}" in done.stderr
    assert data["glitches"] == {"repetition": 3, "refusal": 1}
    assert data["prompts"]["descriptive"]["outcomes"] == {"ok": 6, "glitched": 1, "failed": 2}
    assert Page(page).tags["img"] == 3


_MEASURED = """
import resource, sys
from pathlib import Path
from joycap_vllm.job import make_report
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = make_report([Path(sys.argv[1])])
assert report.outcomes.total() == 30_000, report.outcomes
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_report_holds_no_captions_in_memory(tmp_path: Path) -> None:
    big = "word " * 400
    rows = (
        looped(f"folder/{n:07}.jpg", 2, caption=big, why=big)
        if n % 30 == 0
        else record(f"folder/{n:07}.jpg", caption=big)
        for n in range(30_000)
    )
    path = tmp_path / "journal-host-1.jsonl"
    with path.open("wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in rows)
    line = [sys.executable, "-c", _MEASURED, str(path)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)

    assert path.stat().st_size > 60e6
    assert int(done.stdout) < 25_000, "kB beyond what starting takes"
