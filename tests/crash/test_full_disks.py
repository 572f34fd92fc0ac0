"""Disks that fill up, files that may not grow, trees that may not be written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from .lives import Job, draw
from .namespace import Mounted
from .server import ServerProcess

as_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="only root can mount a file system"
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Mounted]:
    (tmp_path / "small").mkdir()
    mounted = Mounted(tmp_path / "small", "48k")
    yield mounted
    mounted.close()


def at_most(size: int) -> Callable[[], object]:
    """Makes a life whose files may not grow beyond so many bytes."""
    limits = size, resource.RLIM_INFINITY
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits)


def test_a_journal_that_may_not_grow_stops_the_job_and_keeps_what_was_synced(job: Job) -> None:
    life = job.live(code=1, before=at_most(8000))
    (journal,) = job.state.glob("journal-*.jsonl")

    assert f"the journal {journal} cannot be written: File too large" in life.err
    assert 0 < job.ledger.count < len(job.ledger.sidecars)
    assert not job.ledger.is_torn()
    job.finish()


@as_root
def test_a_disk_that_the_journal_fills_stops_the_job_and_with_space_back_it_goes_on(
    tmp_path: Path, server: ServerProcess, small: Mounted
) -> None:
    state = small.place / "state"
    job = Job(
        tmp_path / "pictures", server, 100, state=small.seen(state),
        flags=["--concurrency", "8", "--journal", state],
    )  # fmt: skip
    life = job.live(code=1, before=small.enter)

    assert f"the journal {state}/journal-" in life.err
    assert "No space left on device" in life.err
    assert 0 < job.ledger.count < 100
    assert not job.ledger.is_torn()

    small.remount("size=4m")
    job.live(before=small.enter)
    assert job.ledger.problems() == []


@as_root
def test_a_disk_that_sidecars_fill_stops_the_job_and_with_space_back_it_goes_on(
    tmp_path: Path, server: ServerProcess, small: Mounted
) -> None:
    state = tmp_path / "state"
    out = small.place / "out"
    job = Job(
        tmp_path / "pictures", server, 40, state=state, out=small.seen(out),
        flags=["--concurrency", "8", "--journal", state, "--out", out],
    )  # fmt: skip
    life = job.live(code=1, before=small.enter)

    assert f"{out}/000/p " in life.err
    assert "No space left on device" in life.err
    assert 0 < job.ledger.count < 40
    assert job.ledger.litter() == []

    small.remount("size=4m")
    job.live(before=small.enter)
    assert job.ledger.problems() == []


@as_root
def test_a_disk_that_is_full_from_the_start_is_told_before_anything_is_asked(
    tmp_path: Path, server: ServerProcess, small: Mounted
) -> None:
    small.seen(small.place / "filler").write_bytes(bytes(48 << 10))
    state = small.place / "state"
    job = Job(
        tmp_path / "pictures", server, 10, state=small.seen(state), flags=["--journal", state]
    )
    life = job.live(code=1, before=small.enter)

    assert "No space left on device" in life.err
    assert str(state) in life.err
    assert server.asked() == 0

    small.seen(small.place / "filler").unlink()
    job.live(before=small.enter)
    assert job.ledger.problems() == []


@as_root
def test_a_disk_that_becomes_read_only_stops_the_job_and_once_mended_it_goes_on(
    tmp_path: Path, server: ServerProcess, small: Mounted
) -> None:
    small.remount("size=4m")
    state = small.place / "state"
    job = Job(
        tmp_path / "pictures", server, 10, state=small.seen(state), flags=["--journal", state]
    )
    job.live("--limit", "5", before=small.enter)
    small.remount("ro")
    life = job.live(code=1, before=small.enter)
    assert f"no journal can be kept in {state}: Read-only file system" in life.err

    small.remount("rw")
    job.live(before=small.enter)
    assert job.ledger.problems() == []


@as_root
def test_of_a_tree_that_may_not_be_written_captions_are_kept_and_written_once_it_may_be(
    tmp_path: Path, server: ServerProcess, small: Mounted
) -> None:
    small.remount("size=4m")
    draw(small.seen(small.place), 8)
    small.remount("ro")
    job = Job(small.place, server, 8, state=tmp_path / "none")
    first = job.live(code=1, before=small.enter)
    (job.ledger.state,) = (tmp_path / "state" / "joycap-vllm" / "jobs").iterdir()
    again = job.live(code=1, before=small.enter)

    assert "captions are kept in the journal" in first.err
    assert (job.ledger.lost(), job.ledger.wrong_records()) == (set(), [])
    assert (again.summary["requests"], server.asked()) == (0, 8)

    small.remount("rw")
    last = job.live(before=small.enter)
    job.ledger.sidecars = {t: small.seen(path) for t, path in job.ledger.sidecars.items()}
    assert (last.summary["requests"], job.ledger.problems()) == (0, [])
    assert not small.seen(small.place / ".joycap").exists()


def test_an_out_folder_that_is_still_to_be_made_is_not_called_unwritable(
    tmp_path: Path, server: ServerProcess
) -> None:
    state, out = tmp_path / "journal", tmp_path / "out"
    job = Job(
        tmp_path / "pictures", server, 2, state=state, out=out,
        flags=["--journal", state, "--out", out],
    )  # fmt: skip
    life = job.finish()

    assert "cannot be written" not in life.err
