"""Books of many captions: what a look at them costs, and that they stand still under a reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.review.book import Filter
from joycap_vllm.gateway.review.files import Inside, OutsideError, Said
from joycap_vllm.gateway.review.find import Found, find_books, open_book
from joycap_vllm.gateway.review.job import JobBook
from joycap_vllm.gateway.review.session import Session
from joycap_vllm.gateway.review.thumbs import placeholder
from joycap_vllm.job.stored import JOB_FILE, load_job

from .reviewing import GOOD, glitched, job_of, make_job, picture, row, write_journal

MANY = 100_000


class Counted(Inside):
    """Counts what is looked at on the disk."""

    looks = 0

    def real(self, path: Path) -> Path:
        self.looks += 1
        return super().real(path)

    @contextmanager
    def opened(self, path: Path) -> Iterator[tuple[BinaryIO, Any]]:
        self.looks += 1
        with super().opened(path) as found:
            yield found


def write_many(settings: Any, count: int) -> None:
    lines = [orjson.dumps(make("KEY", settings, caption="TEXT")) for make in (row, glitched)]
    with write_journal(settings.sidecars.root, []).open("wb") as file:
        for number in range(count):
            line = lines[number % 33 == 0].replace(
                b"KEY", b"%03d/%06d.jpg" % (number // 1000, number)
            )
            file.write(line.replace(b"TEXT", b"Caption %d." % number) + b"\n")


async def test_a_page_of_a_hundred_thousand_looks_at_its_own_captions_only(tmp_path: Path) -> None:
    settings = job_of(tmp_path, [])
    write_many(settings, MANY)
    inside = Counted([tmp_path])
    book = JobBook(load_job(settings.state), inside)
    session = Session(Found("1", "job", tmp_path, settings.state), book)
    while not await session.ready():
        pass
    assert (len(book.items), inside.looks) == (MANY, 0)

    view = await session.view(Filter(), 60)
    assert (view["total"], len(view["items"])) == (MANY, 60)
    first, inside.looks = inside.looks, 0
    page = await session.page(view["view"], 99_990, 60)
    assert page is not None
    assert [item["caption"] for item in page[-2:]] == ["Caption 99998.", "Caption 99999."]
    assert (first, inside.looks) == (60 * first // 60, 10 * first // 60)
    assert first <= 60 * 4


async def test_a_view_stands_still_while_its_captions_change(tmp_path: Path) -> None:
    settings = make_job(tmp_path)
    book = JobBook(load_job(settings.state), Inside([tmp_path]))
    book.refresh()
    view, total = book.view(Filter(outcome="glitched"))
    write_journal(tmp_path, [row("bad 0.png", settings, t=2e9)], number=2)
    book.refresh()
    kept = book.page(view, 0, 10)

    assert total == 2
    assert kept is not None
    assert [(item.key, item.state.outcome) for item in kept] == [
        ("bad 0.png", "ok"), ("bad 1.png", "glitched"),
    ]  # fmt: skip
    assert book.view(Filter(outcome="glitched"))[1] == 1
    assert book.facets.as_json()["outcomes"] == {"ok": 4, "glitched": 1}


def test_no_view_has_the_name_of_one_before_a_restart(tmp_path: Path) -> None:
    make_job(tmp_path)
    names = set()
    for _ in range(3):  # as after a restart: the same folder, read anew
        book = JobBook(load_job(tmp_path / ".joycap"), Inside([tmp_path]))
        book.refresh()
        names |= {book.view(Filter())[0] for _ in range(3)}

    assert len(names) == 9


def test_old_views_are_let_go(tmp_path: Path) -> None:
    settings = make_job(tmp_path)
    book = JobBook(load_job(settings.state), Inside([tmp_path]))
    book.refresh()
    names = [book.view(Filter())[0] for _ in range(40)]

    assert book.page(names[0], 0, 1) is None
    assert book.page(names[-1], 0, 1)


def test_a_damaged_line_of_a_journal_is_passed_over(tmp_path: Path) -> None:
    settings = make_job(tmp_path)
    with write_journal(tmp_path, []).open("ab") as file:
        file.write(b'{"v": 1, "key": 3}\n\xff\n{"torn')
    book = JobBook(load_job(settings.state), Inside([tmp_path]))
    book.refresh()
    book.refresh()

    assert len(book.items) == 5


def test_links_lead_nowhere_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "words.txt").write_text("Secret.")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "words.txt").symlink_to(tmp_path / "out" / "words.txt")
    inside = Inside([tmp_path / "in"])

    for path in ("link/words.txt", "words.txt", "../out/words.txt", "link/../../out/words.txt"):
        said = inside.said(tmp_path / "in" / path)
        assert said.text is None
        assert "--root" in said.trouble
    assert inside.said(tmp_path / "in" / "none.txt") == Said()


def test_a_root_that_is_a_link_is_what_it_links_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text(GOOD)
    (tmp_path / "root").symlink_to(tmp_path / "real")

    assert Inside([tmp_path / "root"]).said(tmp_path / "root" / "a.txt").text == GOOD


def test_a_state_folder_that_links_out_of_the_roots_is_not_used(tmp_path: Path) -> None:
    make_job(tmp_path / "elsewhere")
    root = tmp_path / "root"
    picture(root / "a.png")
    (root / ".joycap").symlink_to(tmp_path / "elsewhere" / ".joycap")
    (found,) = find_books([root])

    with pytest.raises(OutsideError):
        open_book(found, [root])


def test_jobs_below_a_root_and_pictures_of_none_are_found(tmp_path: Path) -> None:
    make_job(tmp_path / "a" / "one")
    make_job(tmp_path / "two")
    picture(tmp_path / "loose.png")
    found = {book.folder.name: book.kind for book in find_books([tmp_path])}

    assert found == {"one": "job", "two": "job", tmp_path.name: "folder"}
    (plain,) = [book for book in find_books([tmp_path]) if book.kind == "folder"]
    book = open_book(plain, [tmp_path])
    book.refresh()
    assert [item.key for item in book.items.values()] == ["loose.png"]


def test_pictures_deep_in_a_jobs_folder_make_no_book_of_the_root(tmp_path: Path) -> None:
    picture(tmp_path / "one" / "deep" / "er" / "a.png")
    make_job(tmp_path / "one")

    assert [book.folder.name for book in find_books([tmp_path])] == ["one"]


def test_a_job_of_an_earlier_version_is_told(tmp_path: Path) -> None:
    settings = make_job(tmp_path)
    (settings.state / JOB_FILE).write_text("{}")
    (found,) = find_books([tmp_path])

    with pytest.raises(UsageError, match="earlier version"):
        open_book(found, [tmp_path])


@given(st.text(max_size=300))
def test_any_reason_can_be_drawn(why: str) -> None:
    drawn = placeholder(why).decode()

    assert drawn.startswith("<svg")
    assert drawn.endswith("</svg>")
    assert drawn.count("<text") == drawn.count("</text>") == 1
