"""A job of hundreds of tasks against a server that answers with bad texts now and then."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_job import Bench, Result, main, run


def checked(result: Result) -> Result:
    assert result.problems == []
    assert result.summary["tasks"] == result.summary["ok"] == 400
    assert result.handed_out.total() == 0
    assert sum(result.summary["glitches"].values()) == result.ledger.bad.total() > 0
    return result


def test_faults_that_come_by_chance_reach_nobody(tmp_path: Path) -> None:
    result = checked(run(Bench(tasks=400, rate=0.1), tmp_path))

    assert result.summary["requests"] == 400 + result.ledger.bad.total()


def test_faults_that_stick_to_an_image_for_two_attempts_reach_nobody(tmp_path: Path) -> None:
    result = checked(run(Bench(tasks=400, rate=0.1, sticky=2), tmp_path))

    assert result.ledger.bad.total() == 2 * result.summary["retried"]


def test_faults_that_never_end_are_listed_and_not_handed_out(tmp_path: Path) -> None:
    result = run(Bench(tasks=400, rate=0.05, sticky=9), tmp_path)

    assert result.problems == []
    assert result.handed_out.total() == 0
    assert result.summary["glitched"] == result.ledger.last_bad > 0


def test_the_bench_says_whether_the_promise_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tasks", "80", "--rate", "0"]) == 0
    assert "handed out             0" in capsys.readouterr().out
