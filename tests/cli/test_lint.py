"""`joycap lint` as users meet it: rows in order, whatever comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.job.lint_rows import LONGEST

COMMAND = [sys.executable, "-c", "from joycap_vllm.cli import main; main()", "lint"]
LOOP = "a red car, " * 40
GOOD = "A red square lies on a white ground."


def lint(
    *arguments: str | Path, code: int = 0, given: bytes = b""
) -> tuple[list[dict[str, Any]], str]:
    """What is said on stdout, as rows, and on stderr."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def write_rows(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines))
    return path


def many_rows(path: Path, count: int) -> Path:
    """Rows of about 600 bytes; every seventh is a loop."""
    text = " ".join(f"Sentence {n} tells of a different thing." for n in range(15))
    return write_rows(path, [{"text": LOOP if n % 7 == 0 else text} for n in range(count)])


def test_the_order_stays_under_many_workers(tmp_path: Path) -> None:
    file = many_rows(tmp_path / "rows.jsonl", 1400)
    alone, _ = lint("--jsonl", file, "--workers", "1", code=1)
    together, _ = lint("--jsonl", file, "--workers", "3", code=1)

    assert [row["ref"] for row in together] == list(range(1, 1401))
    assert together == alone


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"{", "no JSON"),
        (b"[1]", 'no {"text"'),
        ({"caption": "x"}, 'no {"text"'),
        ({"text": 5}, "no string"),
        ({"text": "x", "style": "verse"}, "'verse'"),
        ({"text": "x", "finish_reason": 7}, "finish_reason"),
        (b'{"text": "\xff"}', "no JSON"),
    ],
)
def test_a_row_without_a_text_is_told_and_the_rest_is_judged(
    tmp_path: Path, row: Any, why: str
) -> None:
    rows, said = lint("--jsonl", write_rows(tmp_path / "a", [row, {"text": GOOD}]), code=1)

    assert (rows[0]["ok"], rows[0]["glitch"], rows[0]["ref"]) == (False, None, 1)
    assert why in rows[0]["why"]
    assert rows[1]["ok"]
    assert "1 could not be read" in said


def test_a_file_without_any_text_is_a_wrong_use(tmp_path: Path) -> None:
    _, said = lint("--jsonl", write_rows(tmp_path / "a", [b"1", b"2"]), code=2)

    assert "none of the rows" in said
    assert "does not exist" in lint("--jsonl", tmp_path / "none", code=2)[1]
    assert "does not exist" in lint(tmp_path / "none", code=2)[1]


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    assert lint("--jsonl", write_rows(tmp_path / "a", []))[0] == []


def test_null_is_an_empty_answer_and_blank_lines_only_count(tmp_path: Path) -> None:
    rows = ["\ufeff".encode() + b'{"text": null}', b"", b" \r", {"text": GOOD}]
    found, _ = lint("--jsonl", write_rows(tmp_path / "a", rows), code=1)

    assert [(row["ref"], row["glitch"]) for row in found] == [(1, "empty"), (4, None)]


def test_a_row_that_never_ends_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "long"
    with file.open("wb") as out:
        out.write(json.dumps({"text": GOOD}).encode() + b"\n")
        out.truncate(out.tell() + LONGEST + (1 << 20))
        out.seek(0, os.SEEK_END)
        out.write(b"\n" + json.dumps({"text": GOOD}).encode())
    found, _ = lint("--jsonl", file, code=1)

    assert [row["ok"] for row in found] == [True, False, True]
    assert "longer than" in found[1]["why"]


def test_standard_input_and_several_files_may_be_given(tmp_path: Path) -> None:
    piped, _ = lint("--jsonl", "-", given=json.dumps({"text": GOOD}).encode())
    files = [write_rows(tmp_path / name, [{"text": GOOD}]) for name in "ab"]
    both, _ = lint("--jsonl", files[0], "--jsonl", files[1])

    assert [row["ref"] for row in piped] == [1]
    assert [row["ref"] for row in both] == [f"{files[0]}:1", f"{files[1]}:1"]


def test_what_trickles_in_is_answered_at_once() -> None:
    with subprocess.Popen(
        [*COMMAND, "--jsonl", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write(json.dumps({"text": GOOD}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["ref"] == number
        process.stdin.close()

    assert process.returncode == 0


def test_bad_only_leaves_out_the_good_and_json_ends_with_the_summary(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a", [{"text": GOOD}, {"text": LOOP}, b"{"])
    found, _ = lint("--jsonl", file, "--bad-only", "--json", code=1)
    summary = found.pop()

    assert [row["ref"] for row in found] == [2, 3]
    assert summary.pop("seconds") >= 0
    assert summary == {
        "captions": 3, "ok": 1, "glitched": 1, "unreadable": 1,
        "glitches": {"repetition": 1}, "fixed": 0,
    }  # fmt: skip


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    file = many_rows(tmp_path / "rows.jsonl", 3000)
    command = [*COMMAND, "--jsonl", str(file), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()

    assert said == b""
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_130_and_no_word(tmp_path: Path, number: signal.Signals) -> None:
    file = many_rows(tmp_path / "rows.jsonl", 20_000)
    command = [*COMMAND, "--jsonl", str(file), "--workers", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for _ in range(1000):  # by then the workers are at it
            process.stdout.readline()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, b"")


def test_wrong_uses_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(GOOD)
    rows = write_rows(tmp_path / "rows", [{"text": GOOD}])

    assert "or --jsonl" in lint(code=2)[1]
    assert "or --jsonl" in lint(tmp_path, "--jsonl", rows, code=2)[1]
    assert "--fix" in lint("--jsonl", rows, "--fix", code=2)[1]
    assert "--workers" in lint(tmp_path, "--workers", "0", code=2)[1]
    assert "overwrite pictures" in lint(tmp_path, "--ext", "png", code=2)[1]


def test_folders_are_walked_by_name_and_links_back_are_cut(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.txt", "a b/ü.txt", "-x.txt", ".hidden/no.txt", "other.caption"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    found, _ = lint(tmp_path)

    assert [row["ref"] for row in found] == [
        str(tmp_path / name) for name in ("-x.txt", "a b/ü.txt", "b/a.txt", "b/z.txt")
    ]
    assert [row["ref"] for row in lint(tmp_path, "--ext", "caption")[0]] == [
        str(tmp_path / "other.caption")
    ]


def test_many_sidecars_keep_their_order_too(tmp_path: Path) -> None:
    for number in range(700):
        folder = tmp_path / str(number % 3)
        folder.mkdir(exist_ok=True)
        (folder / f"{number:03}.txt").write_text(LOOP if number % 50 == 0 else GOOD)
    found, _ = lint(tmp_path, "--workers", "3", code=1)

    assert [row["ref"] for row in found] == [str(p) for p in sorted(tmp_path.rglob("*.txt"))]
    assert [int(Path(row["ref"]).stem) % 50 for row in found if not row["ok"]] == [0] * 14


def test_sidecars_that_cannot_be_read_are_told_and_the_rest_is_judged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Ein Bär.".encode("latin-1"))
    (tmp_path / "b.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "c.txt")
    (tmp_path / os.fsdecode(b"d\xff.txt")).write_text(GOOD)
    found, said = lint(tmp_path, code=1)

    assert [row["ok"] for row in found] == [False, False, False, True]
    assert [row["glitch"] for row in found] == [None] * 4
    for row, why in zip(found, ("no UTF-8", "No such file", "no regular file"), strict=False):
        assert why in row["why"]
    assert found[3]["ref"].endswith("d\\xff.txt")
    assert "3 could not be read" in said


def test_the_style_is_told_by_the_flag_or_the_row_else_by_the_looks(tmp_path: Path) -> None:
    tags = "1girl, solo, long hair, standing, and"
    rows = [{"text": tags}, {"text": tags, "style": "prose"}]
    file = write_rows(tmp_path / "a", rows)

    assert [row["ok"] for row in lint("--jsonl", file, code=1)[0]] == [True, False]
    assert [row["ok"] for row in lint("--jsonl", file, "--style", "prose", code=1)[0]] == [
        False, False,
    ]  # fmt: skip
