"""A client that is killed at random times, again and again."""

from __future__ import annotations

import random
from pathlib import Path

from .lives import Job
from .server import ServerProcess
from bench_kills import Kills

_KILLS = 12
_CONCURRENCY = 16
_IMAGES = 350


def test_a_job_of_rows_that_is_killed_again_and_again_gives_each_key_one_outcome(
    tmp_path: Path,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"the seed is {seed}")
    with ServerProcess(tmp_path / "log", (0.02, 0.15)) as server:
        flags = ["--concurrency", str(_CONCURRENCY)]
        rows = tmp_path / "rows.jsonl"
        job = Job(tmp_path / "pictures", server, 400, flags=flags, rows=rows)
        kills = Kills(job, 400, 8, seed)
        kills.run()
        job.finish()

    assert kills.done == 8
    assert not list(job.folder.rglob("*.txt"))


def test_a_job_that_is_killed_a_dozen_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    types = ("descriptive", "straightforward")
    seed = random.randrange(1 << 32)
    print(f"the seed is {seed}")
    with ServerProcess(tmp_path / "log", (0.02, 0.15)) as server:
        flags = ["--concurrency", str(_CONCURRENCY)]
        job = Job(tmp_path / "pictures", server, _IMAGES, flags=flags, types=types)
        kills = Kills(job, _IMAGES * len(types), _KILLS, seed)
        kills.run()
        job.finish()
        flying = job.ledger.in_flight()

    assert kills.done == _KILLS
    # What is unsynced at a kill is asked, or has just been answered.
    assert max(flying.values()) <= 2 * _CONCURRENCY
