"""The journal: what was synced is there, whatever happened to the rest."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import OutputError
from joycap_vllm.fleet import Usage
from joycap_vllm.images import Prepared
from joycap_vllm.job import Journal, read_records, state_folder
from joycap_vllm.job.journal import make_line

IMAGE = Prepared(b"", "image/jpeg", 640, 480, 1234, "ab" * 32)


def line(key: str, caption: str = "A dog.", at: float = 1.0) -> bytes:
    outcome = Outcome(
        outcome="ok",
        caption=caption,
        attempts=(Attempt(None, "stop", 7, 0.6, "http://x/v1", 12.3),),
        finish="stop",
        model="m",
        usage=Usage(800, 640, 20),
    )
    return make_line(
        key=key,
        prompt="d",
        fingerprint="f" * 16,
        outcome=outcome,
        image=IMAGE,
        asked=None,
        stem=None,
        now=at,
    )


async def write(folder: Path, *lines: bytes) -> None:
    async with Journal(folder) as journal:
        await asyncio.gather(*(journal.append(one) for one in lines))


def test_a_record_holds_what_the_contract_says() -> None:
    assert orjson.loads(line("a/b.jpg")) == {
        "v": 1,
        "key": "a/b.jpg",
        "prompt": "d",
        "fp": "f" * 16,
        "outcome": "ok",
        "caption": "A dog.",
        "glitch": None,
        "why": "",
        "attempts": [
            {
                "glitch": None,
                "finish": "stop",
                "seed": 7,
                "temperature": 0.6,
                "endpoint": "http://x/v1",
                "ms": 12.3,
                "error": None,
            }
        ],
        "finish": "stop",
        "model": "m",
        "usage": {"prompt": 800, "cached": 640, "completion": 20},
        "image": {"width": 640, "height": 480, "bytes": 1234, "sha256": "ab" * 32},
        "t": 1.0,
    }


async def test_appended_records_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    async with Journal(tmp_path) as journal:
        await journal.append(line("a"))

        assert set(read_records(tmp_path)) == {("a", "d")}


async def test_many_records_are_synced_in_few_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    really = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        really(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    await write(tmp_path, *(line(str(n)) for n in range(640)))

    assert len(read_records(tmp_path)) == 640
    assert len(syncs) <= 12


async def test_of_a_task_recorded_twice_the_later_record_counts(tmp_path: Path) -> None:
    await write(tmp_path, line("a", "old", 1.0), line("a", "new", 2.0))

    assert read_records(tmp_path)["a", "d"].caption() == "new"


async def test_every_process_has_its_own_file_and_reads_all(tmp_path: Path) -> None:
    async with Journal(tmp_path) as one, Journal(tmp_path) as two:
        await asyncio.gather(one.append(line("a")), two.append(line("b")))
        assert one.earlier_writer() is None
        assert two.earlier_writer() == one.path

    assert len(list(tmp_path.glob("journal-*.jsonl"))) == 2
    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_cut_at_any_byte_the_whole_records_stay_and_new_ones_follow(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    lines = [line(key, f"caption \u2028 \n of {key}") for key in ("a", "b", "ü")]
    asyncio.run(write(folder, *lines))
    (path,) = folder.glob("journal-*.jsonl")
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert len(read_records(folder)) == kept
    asyncio.run(write(folder, line("new")))

    assert len(read_records(folder)) == kept + 1
    assert all(orjson.loads(row) for row in path.read_bytes().splitlines())


async def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    await write(tmp_path, line("a"), line("b"))
    (path,) = tmp_path.glob("journal-*.jsonl")
    path.write_bytes(b"\0" * 20 + b"\n" + path.read_bytes())

    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}
    assert read_records(tmp_path)["b", "d"].caption() == "A dog."


async def test_a_full_disk_raises_and_keeps_what_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Journal(tmp_path) as journal:
        await journal.append(line("a"))

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fdatasync", full)
        with pytest.raises(OutputError, match="No space") as caught:
            await journal.append(line("b"))
        monkeypatch.undo()
        await journal.append(line("c"))

    assert caught.value.stops_all
    assert set(read_records(tmp_path)) == {("a", "d"), ("c", "d")}


async def test_what_a_failed_write_left_is_gone_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Journal(tmp_path) as journal:
        await journal.append(line("a"))
        really = os.pwrite

        def torn(file: int, data: bytes, at: int) -> int:
            if at > journal_size:
                raise OSError(errno.EIO, "Input/output error")
            return really(file, data[:50], at)

        def broken(file: int, length: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        journal_size = journal.path.stat().st_size
        monkeypatch.setattr(os, "pwrite", torn)
        monkeypatch.setattr(os, "ftruncate", broken)
        with pytest.raises(OutputError, match="Input/output"):
            await journal.append(line("b"))
        with pytest.raises(OutputError, match="Input/output"):
            await journal.append(line("b"))
        assert journal.path.stat().st_size == journal_size + 50
        monkeypatch.undo()
        await journal.append(line("c"))

    assert journal.path.read_bytes() == line("a") + line("c")


async def test_a_full_file_system_leaves_whole_records_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real call fails in the middle of a record, as where a quota ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with Journal(tmp_path) as journal:
        await journal.append(line("a"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(line("a")) + 100, before[1]))
        try:
            with pytest.raises(OutputError, match="File too large"):
                await journal.append(line("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert journal.path.read_bytes() == line("a")
        await journal.append(line("c"))

    assert journal.path.read_bytes() == line("a") + line("c")


async def test_short_writes_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: really(file, data[:7], at))
    await write(tmp_path, line("a"), line("b"))

    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    async with Journal(tmp_path) as journal:
        waiting = [asyncio.create_task(journal.append(line(str(n)))) for n in range(10)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)

    assert len(read_records(tmp_path)) == 10
    with pytest.raises(OutputError, match="is closed"):
        await journal.append(line("late"))


async def test_who_stops_waiting_takes_no_record_of_others_along(tmp_path: Path) -> None:
    async with Journal(tmp_path) as journal:
        waiting = [asyncio.create_task(journal.append(line(str(n)))) for n in range(10)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in done].count(type(None)) == 9
    assert len(read_records(tmp_path)) >= 9


async def test_the_torn_tail_of_a_journal_at_work_is_left_alone(tmp_path: Path) -> None:
    async with Journal(tmp_path) as busy:
        with busy.path.open("ab") as file:
            file.write(b'{"v":1,')
        async with Journal(tmp_path) as other:
            await other.append(line("a"))

        assert busy.path.read_bytes() == b'{"v":1,'
    assert other.path != busy.path


async def test_without_locks_every_run_takes_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    await write(tmp_path, line("a"))
    await write(tmp_path, line("b"))
    async with Journal(tmp_path) as third:
        assert third.earlier_writer() is None

    assert len(list(tmp_path.glob("journal-*.jsonl"))) == 3
    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}


async def test_a_journal_of_another_user_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(tmp_path, line("a"))
    (theirs,) = tmp_path.glob("journal-*.jsonl")
    really = os.open

    def guarded(path: Path, flags: int, *mode: int) -> int:
        if path == theirs and not flags & os.O_EXCL:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, flags, *mode)

    with monkeypatch.context() as patch:  # root, as in containers, may open everything
        patch.setattr(os, "open", guarded)
        await write(tmp_path, line("b"))

    assert theirs.read_bytes() == line("a")
    assert set(read_records(tmp_path)) == {("a", "d"), ("b", "d")}


async def test_a_new_journal_outlasts_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    really = os.fsync

    def noted(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink())
        really(file)

    monkeypatch.setattr(os, "fsync", noted)
    await write(tmp_path / "out" / ".joycap", line("a"))
    await write(tmp_path / "out" / ".joycap", line("b"))

    assert synced == [tmp_path / "out" / ".joycap", tmp_path / "out"]


def test_the_journal_lives_beside_the_images_or_in_the_state_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")

    assert state_folder(tmp_path) == tmp_path / ".joycap"
    assert not (tmp_path / ".joycap").exists(), "nothing is made by asking"
    assert state_folder(Path("/")).is_relative_to(tmp_path / "state")
    assert state_folder(blocked).is_relative_to(tmp_path / "state")
