"""Edits against everything that may come in between: other edits, jobs, kills."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.gateway.review.book import Item, id_of
from joycap_vllm.gateway.review.desk import Change, Desk
from joycap_vllm.gateway.review.files import Inside
from joycap_vllm.gateway.review.folder import PROMPT, FolderBook
from joycap_vllm.gateway.review.job import JobBook
from joycap_vllm.job.edits import Edit, State, edit_line, edit_of, state_of
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.stored import load_job

from .reviewing import GOOD, LOOP, journal_rows, latest, make_job, picture
from fault_server import FaultServer
from forking import run_joycap

NAMES = ("bad 0.png", "good 0.png", "good 1.png")


def job_book(job: JobSettings) -> JobBook:
    book = JobBook(load_job(job.state), Inside([job.sidecars.root]))
    book.refresh()
    return book


def item_of(book: JobBook | FolderBook, key: str) -> Item:
    return book.items[id_of(key, book.prompts[0])]


def text_of(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda text: bool("".join(c for c in text if c.isprintable()).strip())
)
steps = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from(NAMES), words), st.just("again")), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(steps)
def test_any_edits_and_undos_leave_what_a_stack_would(
    taken: list[tuple[str, str] | str | None],
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        asyncio.run(_edits_like_a_stack(folder, make_job(folder, good=2, bad=1), taken))


async def _edits_like_a_stack(
    folder: Path, job: JobSettings, taken: list[tuple[str, str] | str | None]
) -> None:
    files = {name: (folder / name).with_suffix(".txt") for name in NAMES}
    book = job_book(job)
    desk = Desk(book)

    def now() -> dict[str, tuple[str | None, State]]:
        return {name: (text_of(file), item_of(book, name).state) for name, file in files.items()}

    before = []
    for step in taken:
        if step == "again":
            book = job_book(job)
            desk = Desk(book)
        elif isinstance(step, tuple):
            before.append(now())
            await desk.change(Change(item_of(book, step[0]), "edit", step[1], None))
        elif before:
            last = book.history.last()
            assert last is not None
            await desk.undo(last.edit.id)
            assert now() == before.pop()
        assert len(book.history) == len(before)
    left, book = now(), job_book(job)
    assert now() == left


@given(
    st.builds(
        State, st.sampled_from(["ok", "failed"]), words, st.none() | words, words, st.booleans()
    ),
    st.none() | words,
    st.none() | words,
)
def test_what_an_edit_records_is_read_back(
    state: State, before: str | None, after: str | None
) -> None:
    edit = Edit("1", "again", "", state, before, after)
    line = edit_line("k", "p", "f", state, edit, now=1.0, facts={"stem": None})
    data = orjson.loads(line)

    assert edit_of(data) == edit
    assert state_of(data) == state


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(["id", "what", "undoes", "was", "before", "after"]), inner
            )
        ),
    )
)
def test_a_damaged_edit_is_none(review: object) -> None:
    edit = edit_of({"outcome": "ok", "review": review})

    assert edit is None or isinstance(edit.was, State)


@pytest.mark.parametrize("undone", [False, True])
async def test_what_a_kill_left_undone_is_done_when_the_book_is_opened(
    tmp_path: Path, undone: bool
) -> None:
    job = make_job(tmp_path)
    file, book = tmp_path / "good 0.txt", job_book(job)
    desk = Desk(book)
    await desk.change(Change(item_of(book, "good 0.png"), "edit", "New.", None))
    if undone:
        last = book.history.last()
        assert last is not None
        await desk.undo(last.edit.id)
    wanted, old = (GOOD, "New.") if undone else ("New.", GOOD)
    file.write_text(old)  # as if the kill had come before the rename
    os.utime(file, (1, 1))
    again = Desk(job_book(job))
    await again.finish()

    assert file.read_text() == wanted


async def test_a_text_that_somebody_put_back_later_is_not_taken_for_a_kill(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    file, book = tmp_path / "good 0.txt", job_book(job)
    await Desk(book).change(Change(item_of(book, "good 0.png"), "edit", "New.", None))
    file.write_text(GOOD)
    later = item_of(book, "good 0.png").at + 1
    os.utime(file, (later, later))
    await Desk(job_book(job)).finish()

    assert file.read_text() == GOOD


_EDITOR = """
import asyncio, sys
from pathlib import Path
from joycap_vllm.gateway.review.desk import Change, Desk
from joycap_vllm.gateway.review.files import Inside
from joycap_vllm.gateway.review.job import JobBook
from joycap_vllm.job.stored import load_job

async def main(folder):
    book = JobBook(load_job(folder / ".joycap"), Inside([folder]))
    book.refresh()
    desk, items = Desk(book), list(book.items.values())
    for number in range(100_000):
        item = items[number % len(items)]
        await desk.change(Change(item, "edit", f"Edit {number}.", None))
        print(item.key, number, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_no_edit_is_lost_or_half_written(tmp_path: Path, seed: int) -> None:
    job = make_job(tmp_path)
    editor = subprocess.Popen(
        [sys.executable, "-c", _EDITOR, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert editor.stdout is not None
    told: dict[str, int] = {}
    for _ in range(random.Random(seed).randint(3, 40)):
        key, _, number = editor.stdout.readline().rpartition(" ")
        told[key] = int(number)
    editor.send_signal(signal.SIGKILL)
    for line in editor.stdout.read().splitlines():
        key, _, number = line.rpartition(" ")
        told[key] = int(number)
    editor.wait()
    editor.stdout.close()

    book = job_book(job)
    asyncio.run(Desk(book).finish())
    for item in book.items.values():
        if item.key not in told:
            continue
        said = int(item.state.caption.removeprefix("Edit ").removesuffix("."))
        assert said >= told[item.key]
        assert (tmp_path / item.key).with_suffix(".txt").read_text() == item.state.caption
    assert sum(each.state.by_hand for each in book.items.values()) == len(book.items)


async def test_a_later_job_leaves_what_a_person_wrote(tmp_path: Path, server: FaultServer) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    where = ("--base-url", server.url, "--no-check")
    assert run_joycap(("caption", tmp_path, *where)).returncode == 0
    book = JobBook(load_job(tmp_path / ".joycap"), Inside([tmp_path]))
    book.refresh()
    await Desk(book).change(Change(item_of(book, "a.png"), "edit", "A person's words", None))
    asked = len(server.asked)

    for command in (
        ("caption", tmp_path, "--existing", "overwrite", *where),
        ("caption", tmp_path, "--again", "glitched", *where),
        ("retry", tmp_path, "--only", "glitched", *where),
    ):
        run_joycap(command)
    assert len(server.asked) == asked
    run_joycap(("caption", tmp_path, "--again", "all", *where))
    exported = run_joycap(("export", tmp_path, "--format", "jsonl"))

    assert exported.returncode == 0, exported.stderr
    assert len(server.asked) == asked + 1
    assert (tmp_path / "a.txt").read_text() == "A person's words"
    rows = [orjson.loads(line) for line in (tmp_path / "captions.jsonl").read_bytes().splitlines()]
    assert {row["key"]: row for row in rows}["a.png"]["caption"] == "A person's words"


async def test_a_job_of_rows_takes_edits_into_its_journal_alone(
    tmp_path: Path, server: FaultServer
) -> None:
    picture(tmp_path / "a.png")
    out = tmp_path / "out.jsonl"
    where = ("--base-url", server.url, "--no-check", "--journal", tmp_path / ".joycap")
    made = run_joycap(("caption", tmp_path, "--format", "jsonl", "--out", out, *where))
    assert made.returncode == 0, made.stderr
    book = JobBook(load_job(tmp_path / ".joycap"), Inside([tmp_path]))
    book.refresh()
    await Desk(book).change(Change(item_of(book, "a.png"), "edit", "A person's words.", None))
    run_joycap(("export", tmp_path, "--format", "jsonl", "--out", out))

    assert not (tmp_path / "a.txt").exists()
    assert orjson.loads(out.read_bytes())["caption"] == "A person's words."


async def test_two_desks_take_turns(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    books = [job_book(job), job_book(job)]
    for number in range(4):
        book = books[number % 2]
        change = Change(item_of(book, "good 0.png"), "edit", f"Edit {number}.", None)
        await Desk(book).change(change)

    assert (tmp_path / "good 0.txt").read_text() == "Edit 3."
    captions = [each["caption"] for each in journal_rows(tmp_path) if each["key"] == "good 0.png"]
    assert captions == [GOOD, "Edit 0.", "Edit 1.", "Edit 2.", "Edit 3."]


async def test_a_folder_that_cannot_be_written_tells_so(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    picture(folder / "a.png")
    (folder / "a.txt").write_text(LOOP)
    book = FolderBook(folder, Inside([folder]))
    book.refresh()
    item = item_of(book, "a.png")
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    with pytest.raises(Exception, match="Is a directory"):
        await Desk(book).change(Change(item, "edit", "Mine.", None))
    assert (folder / "a.txt").is_dir()
    shutil.rmtree(folder)


async def test_new_names_in_a_folder_are_seen(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    book = FolderBook(tmp_path, Inside([tmp_path]))
    book.refresh()
    picture(tmp_path / "sub" / "b.png")
    (tmp_path / "a.png").unlink()
    book._next_look = 0.0
    book.refresh()

    assert set(book.items) == {id_of("sub/b.png", PROMPT)}


def test_the_latest_record_is_the_persons(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    book = job_book(job)
    item = item_of(book, "bad 0.png")
    asyncio.run(Desk(book).change(Change(item, "edit", "Words.", None)))

    assert latest(tmp_path, "bad 0.png")["t"] == item.at


async def test_a_caption_that_a_person_accepted_is_right_for_lint_too(tmp_path: Path) -> None:
    job = make_job(tmp_path, good=1, bad=2)
    (tmp_path / "bad 1.txt").write_text(LOOP.strip())
    book = job_book(job)
    await Desk(book).change(Change(item_of(book, "bad 0.png"), "accept", LOOP, None))
    linted = run_joycap(("lint", tmp_path))

    rows = {Path(row["ref"]).name: row for row in map(orjson.loads, linted.stdout.splitlines())}
    assert {name: row["ok"] for name, row in rows.items()} == {
        "bad 0.txt": True, "bad 1.txt": True, "good 0.txt": True,
    }  # fmt: skip
    assert "accepted" in rows["bad 0.txt"]["why"]


async def test_line_breaks_of_windows_are_no_news_and_stay(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    caption = tmp_path / "a.txt"
    caption.write_bytes(b"A boat\r\non a lake.\r\n")
    book = FolderBook(tmp_path, Inside([tmp_path]))
    book.refresh()
    item = item_of(book, "a.png")
    shown = item.state.caption
    await Desk(book).change(Change(item, "edit", "A ship\non a lake.", None))

    assert shown == "A boat\non a lake."
    assert caption.read_bytes() == b"A ship\r\non a lake.\r\n"


async def test_a_caption_whose_picture_was_deleted_meanwhile_can_still_be_told(
    tmp_path: Path,
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("A boat.")
    book = FolderBook(tmp_path, Inside([tmp_path]))
    book.refresh()
    item = item_of(book, "a.png")
    (tmp_path / "a.png").unlink()
    book.forget(item)

    assert book.sidecar_of(item) == tmp_path / "a.txt"
