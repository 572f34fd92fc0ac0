"""What a killed writer leaves is used up by the next one, and nothing else is touched."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from joycap_vllm.outputs import write_atomically


class _Killed(BaseException):
    pass


@pytest.fixture
def stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stays of a writer of a.txt that was killed before it could rename."""

    def dies(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", dies)
        patched.setattr(os, "unlink", lambda *_: None)
        with pytest.raises(_Killed):
            write_atomically(tmp_path / "a.txt", b"a long text that was never finished")
    (left,) = tmp_path.iterdir()
    return left


def test_what_a_killed_writer_left_is_used_up_by_the_next(tmp_path: Path, stale: Path) -> None:
    write_atomically(tmp_path / "a.txt", b"short")

    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.txt", b"short")]


def test_what_another_writer_holds_open_is_left_to_it(tmp_path: Path, stale: Path) -> None:
    with stale.open("r+b") as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.txt", b"short")

        assert stale.read_bytes() == b"a long text that was never finished"
    assert (tmp_path / "a.txt").read_bytes() == b"short"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_name_of_another_file_is_not_written_through(tmp_path: Path, stale: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    stale.unlink()
    stale.hardlink_to(precious)
    write_atomically(tmp_path / "a.txt", b"short")

    assert (precious.read_bytes(), (tmp_path / "a.txt").read_bytes()) == (b"mine", b"short")


@pytest.mark.parametrize("blocking", ["folder", "link"])
def test_a_name_that_is_taken_by_something_else_holds_nothing_up(
    tmp_path: Path, stale: Path, blocking: str
) -> None:
    stale.unlink()
    if blocking == "folder":
        stale.mkdir()
    else:
        stale.symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "a.txt", b"short")

    assert (tmp_path / "a.txt").read_bytes() == b"short"
    assert not (tmp_path / "elsewhere").exists()
