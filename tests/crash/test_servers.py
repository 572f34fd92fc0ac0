"""Servers that die, stop, lie or fill up in the middle of a job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .lives import Job
from .server import FAULTS, ServerProcess

SHORT = ("--timeout", "1", "--patience", "1")


def test_a_server_that_is_killed_and_started_again_is_waited_for(job: Job) -> None:
    job.server.tell(faults=["dies"], after=6)
    life = job.begin()
    job.server.wait_for_signal()
    job.server.start(faults=[])

    assert life.wait() == 0, life.err
    job.ledger.died(life.name)
    assert job.ledger.problems(repeats=False) == []


def test_a_server_that_is_stopped_for_a_moment_is_asked_nothing_twice(job: Job) -> None:
    job.server.tell(faults=["stops"], after=6)
    life = job.begin()
    job.server.wait_for_signal()
    time.sleep(1)  # nothing tells that nothing happens
    job.server.go_on()

    assert life.wait() == 0, life.err
    job.ledger.died(life.name)
    assert job.ledger.problems() == []
    assert job.server.asked() == len(job.ledger.sidecars)


def test_the_work_of_a_server_that_is_stopped_goes_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ServerProcess(log, (0.01, 0.05)) as one, ServerProcess(log, (0.01, 0.05)) as two:
        flags = ["--base-url", two.url, "--concurrency", "4", "--timeout", "1"]
        job = Job(tmp_path / "pictures", one, flags=flags)
        one.tell(faults=["stops"], after=3)
        life = job.begin()
        one.wait_for_signal()
        code = life.wait()
        job.ledger.died(life.name)

    assert code == 0, life.err
    assert job.ledger.problems(repeats=False) == []


def test_every_kind_of_broken_answer_is_asked_for_again(job: Job) -> None:
    job.server.tell(faults=list(FAULTS), attempts=1)
    life = job.live("--timeout", "1")

    assert job.ledger.problems(repeats=False) == []
    assert life.summary["ok"] == len(job.ledger.sidecars)


@pytest.mark.parametrize("fault", ["503", "429"])
def test_a_server_that_fills_up_costs_no_attempt_however_often_it_says_so(
    job: Job, fault: str
) -> None:
    job.server.tell(faults=[fault], after=6)
    life = job.begin("--retries", "0")
    job.server.wait_for(12)
    job.server.tell(faults=[])

    assert life.wait() == 0, life.err
    job.ledger.died(life.name)
    assert job.ledger.problems(repeats=False) == []


# What the job says when it gives up, by what the server does from then on.
LAST_WORDS = {
    "silent": "no answer within 1 s",
    "503": "every endpoint has been full for 1 s",
    "429": "every endpoint has been full for 1 s",
    "500": "no endpoint has answered for 1 s",
    "reset": "no endpoint has answered for 1 s",
    "html": "no endpoint has answered for 1 s",
}


@pytest.mark.parametrize("fault", LAST_WORDS)
def test_a_server_that_answers_no_more_ends_the_job_blames_no_task_and_once_mended_it_goes_on(
    job: Job, fault: str
) -> None:
    job.server.tell(faults=[fault], after=10)
    life = job.begin(*SHORT)

    assert life.wait() == 3, life.err
    job.ledger.died(life.name)
    assert LAST_WORDS[fault] in life.err
    assert 0 < job.ledger.count < len(job.ledger.sidecars)
    assert job.ledger.wrong_records() == []

    job.server.tell(faults=[])
    job.live()
    assert job.ledger.problems(repeats=False) == []


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_server_that_is_away_for_longer_than_the_patience_ends_the_job_and_once_back_it_goes_on(
    job: Job, how: str
) -> None:
    job.server.tell(faults=[how], after=10)
    life = job.begin(*SHORT)
    job.server.wait_for_signal()

    assert life.wait() == 3
    job.ledger.died(life.name)
    assert "no endpoint" in life.err
    assert job.server.url.removesuffix("/v1") in life.err

    job.server.start(faults=[]) if how == "dies" else job.server.go_on()
    job.live()
    assert job.ledger.problems(repeats=False) == []


def test_a_server_that_is_not_there_at_the_start_ends_the_job_before_it_begins(job: Job) -> None:
    job.server.kill()
    life = job.live(*SHORT, code=3)
    assert "cannot be reached" in life.err

    job.server.start()
    job.finish()
