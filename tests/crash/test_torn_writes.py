"""Journals whose last records were torn at any byte, as a power cut leaves them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joycap_vllm.job import Journal, read_records

from .ledger import read_journals
from .lives import Job
from .server import ServerProcess

TAILS = {
    "cut": b"",
    "zeros": bytes(700),
    "garbage": b"\xff\x00{]\xfe",
    "garbage and a line's end": b"\x00\xff\n",
    "half a line of another": b'{"v":1,"key":"x","prompt":"d","outc',
}


def record(key: str) -> bytes:
    """A whole line, with a caption that is hard on whoever splits lines carelessly."""
    data = {
        "v": 1, "key": key, "prompt": "d", "fp": "f", "outcome": "ok",
        "caption": 'Zwölf "Boxer"\u2028jagen\u0085 \\n 犬.', "glitch": None, "why": "",
        "attempts": [
            {"glitch": None, "finish": "stop", "seed": 1, "temperature": 0.6,
             "endpoint": "http://a/v1", "ms": 1.5, "error": None},
        ],
        "finish": "stop", "model": "m", "usage": {"prompt": 800, "cached": 0, "completion": 9},
        "image": {"width": 3, "height": 2, "bytes": 75, "sha256": "0" * 64}, "t": 1e9,
    }  # fmt: skip
    return orjson.dumps(data) + b"\n"


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="joycap-torn-") as name:
        yield Path(name)


def own_file(state: Path) -> Path:
    """The file that the next process here takes."""

    async def look() -> Path:
        async with Journal(state) as journal:
            return journal.path

    return asyncio.run(look())


async def append(state: Path, *lines: bytes) -> None:
    async with Journal(state) as journal:
        await asyncio.gather(*(journal.append(line) for line in lines))


def check(state: Path, path: Path, data: bytes, cut: int, tail: bytes) -> None:
    """Tears the file there: what was whole is there, the rest is not, and what is added stays."""
    path.write_bytes(data[:cut] + tail)
    whole = {orjson.loads(line)["key"] for line in data[:cut].split(b"\n")[:-1]}
    assert {key for key, _ in keys_of(state)} == whole

    asyncio.run(append(state, record("new")))
    assert {key for key, _ in keys_of(state)} == whole | {"new"}
    assert {row["key"] for row in read_journals(state)} == whole | {"new"}
    assert path.read_bytes().endswith(record("new"))


def keys_of(state: Path) -> set[tuple[str, str]]:
    records = read_records(state)
    known = [(key, "d") for key in ("one", "two", "three", "new", "x")]
    assert len(records) == sum(task in records for task in known)
    return {task for task in known if task in records}


def test_a_journal_that_is_cut_at_any_byte_of_its_last_two_records_keeps_all_whole_ones(
    state: Path,
) -> None:
    path = own_file(state)
    data = record("one") + record("two") + record("three")
    for cut in range(len(record("one")), len(data) + 1):
        check(state, path, data, cut, b"")


@pytest.mark.parametrize("tail", TAILS)
def test_what_a_file_system_leaves_behind_the_cut_does_no_harm(state: Path, tail: str) -> None:
    path = own_file(state)
    data = record("one") + record("two") + record("three")
    for cut in range(len(record("one")), len(data), 5):
        check(state, path, data, cut, TAILS[tail])


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 3 * len(record("three"))), tail=st.binary(max_size=40))
def test_any_bytes_may_stand_behind_the_cut(cut: int, tail: bytes) -> None:
    data = record("one") + record("two") + record("three")
    torn = data[:cut].rpartition(b"\n")[2] + tail
    assume(not any(is_json(line) for line in torn.split(b"\n")[:-1]))  # such as what was cut off
    with tempfile.TemporaryDirectory(prefix="joycap-torn-") as name:
        check(Path(name), own_file(Path(name)), data, min(cut, len(data)), tail)


def is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("tail", TAILS)
def test_the_same_command_asks_for_what_was_torn_and_for_nothing_else(
    tmp_path: Path, tail: str
) -> None:
    with ServerProcess(tmp_path / "log") as server:
        job = Job(tmp_path / "pictures", server, 6)
        job.finish()
        (path,) = job.state.glob("journal-*.jsonl")
        data = path.read_bytes()
        path.write_bytes(data[: -len(data) // 8] + TAILS[tail])
        job.ledger.rewritten()
        whole = len(read_journals(job.state))
        for sidecar in job.ledger.sidecars.values():
            sidecar.unlink()
        again = job.live()

    assert again.summary["requests"] == 6 - whole == 1
    assert (job.ledger.lost(), job.ledger.wrong_sidecars()) == (set(), [])
    assert job.ledger.doubled() == {}
