"""What changes between two runs of one job: pictures, settings, the journal's own age."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .ledger import read_journals
from .lives import Job, draw
from .server import ServerProcess, caption_of, color_of


@pytest.fixture
def done(tmp_path: Path, server: ServerProcess) -> Job:
    """A job of six pictures that has come to its end."""
    job = Job(tmp_path / "pictures", server, 6)
    job.finish()
    return job


def test_pictures_that_are_added_are_asked_for_and_no_others(done: Job) -> None:
    keys = draw(done.folder, 4, first=6)
    done.ledger.keys.update(keys)
    done.ledger.sidecars.update(done.sidecars(keys))

    assert done.finish().summary["requests"] == 4


def test_pictures_that_are_removed_change_nothing_about_the_others(done: Job) -> None:
    for number in (0, 3):
        (done.folder / done.ledger.keys[number]).unlink()
    life = done.finish()

    assert (life.summary["requests"], life.summary["tasks"]) == (0, 4)


def test_a_picture_that_is_renamed_is_asked_for_by_its_new_name(done: Job) -> None:
    old = done.folder / done.ledger.keys[2]
    new = old.with_name("0 before all others.png")  # positions change, names do not
    old.rename(new)
    life = done.live()

    assert (life.summary["requests"], life.summary["tasks"]) == (1, 6)
    assert new.with_suffix(".txt").read_text() == caption_of(2)
    assert done.ledger.wrong_sidecars() == []


def replace(job: Job, number: int, size: tuple[int, int]) -> Path:
    """Puts a picture of another colour in the place of one; its sidecar."""
    path = job.folder / job.ledger.keys[number]
    before = path.stat().st_size
    Image.new("RGB", size, color_of(99)).save(path)
    assert (path.stat().st_size == before) == (size == (3, 2))
    sidecar = path.with_suffix(".txt")
    sidecar.unlink()
    return sidecar


def test_a_picture_that_is_replaced_gets_its_own_caption(done: Job) -> None:
    sidecar = replace(done, 1, (300, 200))

    assert done.live().summary["requests"] == 1
    assert sidecar.read_text() == caption_of(99)


def test_a_picture_that_is_replaced_by_one_of_the_same_size_gets_its_own_caption(
    done: Job,
) -> None:
    sidecar = replace(done, 1, (3, 2))

    assert done.live().summary["requests"] == 1
    assert sidecar.read_text() == caption_of(99)


def test_other_settings_are_refused_before_anything_is_asked_and_once_accepted_go_on(
    job: Job,
) -> None:
    job.live("--limit", "10")
    refused = job.live("--temperature", "0.9", "--trigger", "ohwx", code=4)

    assert "temperature: 0.6 -> 0.9" in refused.err
    assert "trigger: '' -> 'ohwx'" in refused.err
    assert job.server.asked() == 10

    accepted = job.live("--temperature", "0.9", "--accept-changes")
    assert accepted.summary["requests"] == len(job.ledger.sidecars) - 10
    assert job.ledger.problems() == []


def test_a_journal_of_the_earliest_form_is_honoured(done: Job) -> None:
    (path,) = done.state.glob("journal-*.jsonl")
    needed = ("v", "key", "prompt", "fp", "outcome", "caption")
    rows = [{name: row[name] for name in needed} for row in read_journals(done.state)]
    path.unlink()
    (done.state / "journal-an-old-host-3.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    done.ledger.rewritten()
    data = json.loads((done.state / "job.json").read_text())
    (done.state / "job.json").write_text(json.dumps({"settings": data["settings"]}))
    for sidecar in done.ledger.sidecars.values():
        sidecar.unlink()

    assert done.live().summary["requests"] == 0
    assert done.ledger.wrong_sidecars() == []


def rewrite(job: Job, change: dict[str, object]) -> Path:
    """Changes every record, as another version would have written it; the journal."""
    (path,) = job.state.glob("journal-*.jsonl")
    rows = [row | change for row in read_journals(job.state)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job.ledger.rewritten()
    return path


def test_what_a_later_release_added_to_a_record_is_passed_over(done: Job) -> None:
    rewrite(done, {"new": {"of": "a later release"}})

    assert done.live().summary["requests"] == 0


def test_records_of_a_later_version_are_left_to_it_before_anything_is_asked(done: Job) -> None:
    path = rewrite(done, {"v": 2})
    before, asked = path.read_bytes(), done.server.asked()
    refused = done.live(code=2)

    assert "was written by a newer joycap-vllm" in refused.err
    assert (path.read_bytes(), done.server.asked()) == (before, asked)
