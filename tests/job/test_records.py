"""What journals say, in columns of numbers: the same as a dictionary of records would."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joycap_vllm.errors import OutputError, UsageError
from joycap_vllm.job import Journal, pool, read_records, records, scan
from joycap_vllm.job.records import Record, read_file

from .journals import attempt, journal, record

FOLDERS = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KEYS = st.one_of(st.sampled_from("abc"), st.text(st.characters(codec="utf-8"), max_size=5))
ROWS = st.builds(
    lambda key, outcome, requests, **rest: record(
        key, outcome, attempts=[attempt()] * requests, **rest
    ),
    KEYS,
    st.sampled_from(["ok", "glitched", "failed"]),
    st.integers(0, 3),
    prompt=st.sampled_from(["d", "tags"]),
    fp=st.sampled_from(["f", "g", None]),
    caption=st.text(st.characters(codec="utf-8"), max_size=10),
    glitch=st.sampled_from([None, "repetition", "a kind of another version"]),
    stem=st.sampled_from([None, "a.png"]),
    image=st.sampled_from(
        [
            None,
            {"bytes": None},
            {"bytes": 5, "sha256": "ab"},
            {"bytes": 2**40},
            {"bytes": 2**32 - 1},
        ]
    ),
    t=st.sampled_from([1.0, 2.0, 2, 3.5, None]),
    v=st.sampled_from([1, None, 0]),
)
DAMAGED = st.sampled_from(
    [b"", b"\0\0\0", b"[]", b'{"key": "a"}', b'{"v":1,"key":"a"', b'"\\ud800"', b"\xff", b"{}"]
)
LINES = st.one_of(
    ROWS.map(orjson.dumps),
    ROWS.map(lambda row: orjson.dumps(dict(reversed(row.items())), option=orjson.OPT_INDENT_2)
             .replace(b"\n", b" ")),
    DAMAGED,
)  # fmt: skip
FILES = st.lists(st.lists(LINES, max_size=12), min_size=1, max_size=3)


def write(folder: Path, files: list[list[bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(files):
        data = b"".join(line + b"\n" for line in lines)
        (folder / f"journal-host-{number}.jsonl").write_bytes(data)


def by_hand(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What a plain dictionary makes of a folder."""
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        for data, offset, _ in read_file(path):
            task, at = (data["key"], data["prompt"]), data["t"] or 0.0
            before = known.get(task)
            attempts = len(data["attempts"]) + (before["attempts"] if before else 0)
            if before is not None and at < before["at"]:
                before["attempts"] = attempts
                continue
            image = data["image"] or {}
            known[task] = {
                "outcome": data["outcome"],
                "fingerprint": data["fp"] or "",
                "size": image.get("bytes"),
                "sha256": image.get("sha256"),
                "at": at,
                "glitch": data["glitch"],
                "stem": data.get("stem"),
                "attempts": attempts,
                "file": path,
                "offset": offset,
                "caption": data["caption"],
            }
    return known


def as_plain(found: Record) -> dict[str, Any]:
    names = ("outcome", "fingerprint", "size", "sha256", "at", "glitch", "stem", "attempts")
    plain = {name: getattr(found, name) for name in (*names, "file", "offset")}
    return plain | {"caption": found.caption()}


@FOLDERS
@given(FILES)
def test_records_say_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    write(folder, files)
    found, expected = read_records(folder), by_hand(folder)

    assert (len(found), bool(found)) == (len(expected), bool(expected))
    assert {task: as_plain(one) for task, one in found.items()} == expected
    assert {task: as_plain(found[task]) for task in found} == expected
    assert (("no such key", "d") in found, found.get(("a", "no such prompt"))) == (False, None)
    for (key, prompt), one in expected.items():
        row = found.find(key, prompt)
        assert found.outcome(row) == one["outcome"]
        assert found.fingerprint(row) == one["fingerprint"]
        assert found.glitch(row) == one["glitch"]
        assert found.size(row) == one["size"]
        assert found.attempts(row) == one["attempts"]


@FOLDERS
@given(FILES, st.sets(st.sampled_from(["ok", "glitched", "failed", "repetition"])))
def test_those_that_ended_in_some_way_are_found(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[bytes]], endings: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    write(folder, files)
    found = read_records(folder)

    assert dict(found.having(endings)) == {
        task: one
        for task, one in found.items()
        if one.outcome in endings or (one.outcome != "ok" and one.glitch in endings)
    }


@FOLDERS
@given(FILES, st.integers(1, 400))
def test_a_journal_read_in_stretches_is_the_same_journal(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[bytes]], stretch: int
) -> None:
    folder = tmp_path_factory.mktemp("job")
    write(folder, files)
    whole = dict(read_records(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_STRETCH", stretch)

        assert dict(read_records(folder)) == whole


@pytest.fixture
def many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small journals are read as large ones are."""
    monkeypatch.setattr(records, "_STRETCH", 3000)
    monkeypatch.setattr(records, "_SMALL", 0)
    monkeypatch.setattr(pool, "_SMALL", 0)
    monkeypatch.setattr(pool, "_TRICKLE", 0)
    monkeypatch.setattr(pool, "cores", lambda: 2)


def test_several_processes_read_the_same_as_one(tmp_path: Path, many_processes: None) -> None:
    rows = [record(f"{n % 300} ü", fp=str(n % 7), t=float(n % 11)) for n in range(500)]
    write(tmp_path, [[orjson.dumps(row) for row in rows[part::2]] for part in (0, 1)])
    found = read_records(tmp_path)

    assert {task: as_plain(one) for task, one in found.items()} == by_hand(tmp_path)
    assert len(found) == 300


def test_what_goes_wrong_in_another_process_is_said(tmp_path: Path, many_processes: None) -> None:
    rows = [record(str(n)) for n in range(50)]
    path = journal(tmp_path, *rows, record("new", v=2))

    with pytest.raises(UsageError, match=f"{path} .*version 2"):
        read_records(tmp_path)


@pytest.mark.parametrize("line", [record("a", v=2), {"v": 7, "tasks": []}, record("a", v=1.5)])
def test_a_journal_of_a_newer_version_is_refused_and_never_taken_for_empty(
    tmp_path: Path, line: dict[str, Any]
) -> None:
    path = journal(tmp_path, record("b"), line)

    with pytest.raises(UsageError, match=r"newer joycap-vllm.*reads up to 1") as caught:
        read_records(tmp_path)
    assert str(path) in str(caught.value)


def test_a_journal_of_an_older_version_or_another_writer_is_read(tmp_path: Path) -> None:
    path = journal(
        tmp_path,
        b'{"key": "a", "prompt": "d", "outcome": "ok"}',
        b' { "t" : 3, "caption" : "A \\u00fc\\ud83d\\ude00.", "v" : 1, "outcome" : "ok", '
        b'"prompt" : "d", "fp" : "f", "key" : "b\\n\\u0000\\/" }\r',
    )
    found = read_records(tmp_path)

    assert dict(found) == {
        ("a", "d"): Record("ok", "", None, 0.0, None, 0, path, 0, named=False),
        ("b\n\0/", "d"): Record("ok", "f", None, 3.0, None, 0, path, 45, named=False),
    }
    assert found["b\n\0/", "d"].caption() == "A ü😀."


def test_any_text_can_be_looked_up(tmp_path: Path) -> None:
    journal(tmp_path, record("\0\n\u2028"))
    found = read_records(tmp_path)

    assert ("\0\n\u2028", "d") in found
    assert ("\udc80", "d") not in found
    assert None not in found


@FOLDERS
@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_cut_at_any_byte_of_its_last_record_a_journal_keeps_all_others(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    folder.joinpath("x").mkdir()
    asyncio.run(append(folder, *(orjson.dumps(row) + b"\n" for row in rows)))
    (path,) = folder.glob("journal-*.jsonl")
    whole, last = path.read_bytes(), len(orjson.dumps(rows[-1])) + 1
    path.write_bytes(whole[: len(whole) - data.draw(st.integers(1, last))])
    new = orjson.dumps(record("new")) + b"\n"
    asyncio.run(append(folder, new))

    assert path.read_bytes() == whole[:-last] + new


def test_cut_at_every_byte_of_its_last_record_nothing_synced_is_lost(tmp_path: Path) -> None:
    first, last, new = (orjson.dumps(record(key)) + b"\n" for key in ("a", "b ü", "new"))
    for cut in range(len(last)):
        folder = tmp_path / str(cut)
        asyncio.run(append(folder, first))
        (path,) = folder.glob("journal-*.jsonl")
        path.write_bytes(first + last[:cut])
        assert set(read_records(folder)) == {("a", "d")}
        asyncio.run(append(folder, new))

        assert path.read_bytes() == first + new


async def append(folder: Path, *lines: bytes) -> None:
    async with Journal(folder) as kept:
        await asyncio.gather(*map(kept.append, lines))


def test_more_sorts_than_are_kept_are_read_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_RARE", 3)
    journal(tmp_path, *(record(str(n), fp=str(n)) for n in range(6)), record("x", "failed"))
    found = read_records(tmp_path)

    assert [found[str(n), "d"].fingerprint for n in range(6)] == list("012345")
    assert [task for task, _ in found.having(["failed"])] == [("x", "d")]


def test_attempts_beyond_all_measure_are_many(tmp_path: Path) -> None:
    journal(tmp_path, *(record("a", attempts=[{}] * 40_000) for _ in range(2)))

    assert read_records(tmp_path)["a", "d"].attempts == scan.MOST_ATTEMPTS


def test_a_stretch_without_an_end_of_line_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_STRETCH", 1000)
    monkeypatch.setattr(scan, "_BUFFER", 100)
    journal(tmp_path, record("a"), b"\0" * 10_000, record("b"))

    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}


def test_a_journal_that_was_replaced_meanwhile_is_said(tmp_path: Path) -> None:
    path = journal(tmp_path, record("a"))
    found = read_records(tmp_path)["a", "d"]
    path.write_bytes(b"x")
    with pytest.raises(OutputError, match="was changed"):
        found.caption()
    path.unlink()
    with pytest.raises(OutputError, match="cannot be read: No such file"):
        found.caption()


def test_a_line_that_is_being_written_counts_once_it_is_whole(tmp_path: Path) -> None:
    path, line = journal(tmp_path, record("a")), orjson.dumps(record("b")) + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line[:50])
        assert set(read_records(tmp_path)) == {("a", "d")}
        file.write(line[50:])

    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}
