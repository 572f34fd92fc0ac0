"""Outputs that are being written when the client dies: whole ones stay, half ones are not seen."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .lives import Job
from .server import ServerProcess
from .test_named_points import die, name_of

POINTS = [
    ("before", "open", "sidecar", 1),
    ("half", "fdatasync", "sidecar", 1),
    ("before", "replace", "output", 1),
    ("after", "replace", "output", 1),
]


@pytest.mark.parametrize("point", POINTS, ids=name_of)
def test_who_dies_while_an_output_is_written_has_the_old_one_and_then_the_whole_new_one(
    tmp_path: Path, server: ServerProcess, point: tuple[str, str, str, int]
) -> None:
    job = Job(tmp_path / "pictures", server, 8, rows=tmp_path / "rows.jsonl")
    output = tmp_path / "captions.jsonl"
    command = ("export", tmp_path, "--format", "jsonl", "--out", output)
    die(job, point)
    assert output.exists() == (point[0] == "after")

    output.write_text("old")
    life = job.begin_other(*command, program=("crash.dying", *map(str, point)))
    assert life.wait() == -signal.SIGKILL, life.err
    assert (output.read_text() == "old") == (point[0] != "after")

    life = job.begin_other(*command)
    assert life.wait() == 0, life.err
    assert job.ledger.problems() == []
    output.unlink()
    assert job.finish().summary["requests"] == 0
