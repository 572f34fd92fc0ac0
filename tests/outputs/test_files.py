"""Files that take their place whole, or leave nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs import replacing

WRITER = """
import sys, time
from pathlib import Path
from joycap_vllm.outputs import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""


def writing(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_nothing_is_seen_of_a_file_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    with replacing(path, make_folders=True) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")

    def broken() -> None:
        with replacing(path, make_folders=True) as file:
            file.write(b"new")
            raise ValueError

    with pytest.raises(ValueError):
        broken()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    killed = writing(path)
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(path, make_folders=True) as file:
        file.write(b"all")

    assert list(tmp_path.iterdir()) == [path]


def test_what_a_living_writer_is_at_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    other = writing(path)
    try:
        with replacing(path, make_folders=True) as file:
            file.write(b"all")
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        other.kill()
        other.communicate()


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (Path("/dev/null"), tmp_path / "folder"):
        with pytest.raises(OutputError, match="no regular file"), replacing(path):
            pass


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    signals = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    write = WRITER.replace('b"half"', "bytes(1 << 22)")
    done = subprocess.run(
        [sys.executable, "-c", limit + signals + write, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"OutputError: {tmp_path / 'out'} cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []
