"""A client that dies at the worst moments: the same command goes on, and all adds up."""

from __future__ import annotations

import signal

import pytest

from .lives import Job, Life

# moment, call, file, number of that call
POINTS = [
    ("before", "open", "journal", 1),
    ("after", "open", "journal", 1),
    ("before", "pwrite", "journal", 1),
    ("half", "pwrite", "journal", 1),
    ("half", "pwrite", "journal", 4),
    ("after", "pwrite", "journal", 3),
    ("before", "fdatasync", "journal", 2),
    ("after", "fdatasync", "journal", 1),
    ("after", "fdatasync", "journal", 4),
    ("before", "fdatasync", "sidecar", 1),
    ("before", "replace", "sidecar", 2),
    ("after", "replace", "sidecar", 5),
]
FIRST_RUN_ONLY = [
    ("before", "open", "job", 1),
    ("before", "fdatasync", "job", 1),
    ("before", "replace", "job", 1),
    ("after", "replace", "job", 1),
]


def name_of(point: tuple[str, str, str, int]) -> str:
    return " ".join(map(str, point))


def die(job: Job, point: tuple[str, str, str, int]) -> Life:
    """A life that ends at this point."""
    life = job.begin(program=("crash.dying", *map(str, point)))
    code = life.wait()
    assert code == -signal.SIGKILL, f"it never came to {name_of(point)}: {life.err}"
    return job.end(life)


@pytest.mark.parametrize("point", POINTS, ids=name_of)
def test_who_dies_there_at_first_and_again_in_the_resume_loses_nothing(
    job: Job, point: tuple[str, str, str, int]
) -> None:
    die(job, point)
    die(job, point)
    job.finish()


@pytest.mark.parametrize("point", FIRST_RUN_ONLY, ids=name_of)
def test_who_dies_while_the_settings_are_written_begins_anew(
    job: Job, point: tuple[str, str, str, int]
) -> None:
    die(job, point)
    job.finish()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_dies_while_a_torn_line_is_cut_off_has_it_cut_off_later(job: Job, moment: str) -> None:
    die(job, ("half", "pwrite", "journal", 3))
    assert job.ledger.is_torn()
    die(job, (moment, "ftruncate", "journal", 1))
    job.finish()


def test_who_dies_while_lost_sidecars_are_written_anew_has_them_all_later(job: Job) -> None:
    job.finish()
    for sidecar in job.ledger.sidecars.values():
        sidecar.unlink()
    before = job.server.asked()
    die(job, ("before", "replace", "sidecar", 3))
    job.finish()

    assert job.server.asked() == before


@pytest.mark.parametrize(
    "point", [("before", "fdatasync", "sidecar", 1), ("before", "replace", "page", 1)], ids=name_of
)
def test_who_dies_while_the_report_is_written_leaves_the_old_page(
    job: Job, point: tuple[str, str, str, int]
) -> None:
    job.finish()
    page = job.folder / "page.html"
    page.write_text("old")
    life = job.begin_other(
        "report", job.folder, "--html", page, program=("crash.dying", *map(str, point))
    )

    assert life.wait() == -signal.SIGKILL, life.err
    assert page.read_text() == "old"
