"""`joycap report` and `joycap export` over many journals, kept in one folder or apart."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from joycap_vllm.job import make_report
from joycap_vllm.job.records import read_journals

from .helping import caption, color_of, command, joycap, make_pictures
from .journals import journal, looped, record
from fault_server import FaultServer, name_of, serving, truthful

NAMES = {f"{path}p {n}.png": n for n in range(24) for path in
         [("", "with space/", "ü/deep/", "-dash/")[n % 4]]}  # fmt: skip


def begin(folder: Path, server: FaultServer, state: Path, part: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(
            "caption", folder, "--base-url", server.url, "--concurrency", "2", "--no-check",
            "--shard", part, "--journal", state, "--json",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed_halfway(
    folder: Path, server: FaultServer, state: Path, part: str, records: int = 3
) -> None:
    process = begin(folder, server, state, part)
    deadline = time.monotonic() + 30
    while sum(f.read_bytes().count(b"\n") for f in state.glob("journal-*.jsonl")) < records:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A job of two shards whose journals are kept apart; the first was killed and went on."""
    folder = tmp_path_factory.mktemp("photos")
    states = [tmp_path_factory.mktemp(f"node{n}") / ".joycap" for n in (1, 2)]
    make_pictures(folder, 24)
    with serving(lambda asked: replace(truthful(asked), delay=0.05)) as server:
        killed_halfway(folder, server, states[0], "1/2")
        runs = [begin(folder, server, state, f"{n}/2") for n, state in enumerate(states, 1)]
        for run in runs:
            out, err = run.communicate(timeout=50)
            assert run.returncode == 0, (out, err)
    return folder, states


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


def test_journals_kept_apart_are_exported_as_one_with_every_caption_once(
    apart: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, states = apart
    parts = [len(read_journals(sorted(state.glob("*.jsonl")))) for state in states]
    joycap("export", *states, "--format", "parquet", "--out", tmp_path / "all.parquet")
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()

    assert all(0 < part < 24 for part in parts)
    assert sum(parts) == 24
    assert len(rows) == 24
    assert {row["key"]: row["caption"] for row in rows} == {
        key: name_of(color_of(number)) for key, number in NAMES.items()
    }
    assert {row["path"] for row in rows} == {str(folder / key) for key in NAMES}


def test_journals_kept_apart_are_reported_as_one(apart: tuple[Path, list[Path]]) -> None:
    _folder, states = apart
    data = json.loads(joycap("report", *states, "--json").stdout)
    one = json.loads(joycap("report", states[0], "--json").stdout)

    assert data["outcomes"] == {"ok": 24}
    assert 0 < one["outcomes"]["ok"] < 24


def test_sidecars_can_be_written_from_journals_kept_apart(
    apart: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    _folder, states = apart
    joycap("export", *states, "--format", "txt", "--out", tmp_path / "texts")

    assert len([*(tmp_path / "texts").rglob("*.txt")]) == 24


def test_journals_collected_into_one_folder_are_one_job(
    apart: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    _folder, states = apart
    for number, state in enumerate(states):
        for path in state.glob("journal-*.jsonl"):
            shutil.copy(path, tmp_path / path.name.replace("journal-", f"journal-n{number}-"))
    shutil.copy(states[0] / "job.json", tmp_path)
    joycap("export", tmp_path, "--format", "jsonl", "--out", tmp_path / "all.jsonl")
    status = json.loads(joycap("status", tmp_path, "--json").stdout)

    assert len(rows_of(tmp_path / "all.jsonl")) == 24
    assert status["recorded"] == {"ok": 24}
    assert json.loads(joycap("report", tmp_path, "--json").stdout)["outcomes"] == {"ok": 24}


def test_shards_of_one_folder_are_merged_by_every_command(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 8)
    (tmp_path / "p 4.png").write_bytes(b"broken")
    summaries = [
        json.loads(
            joycap(
                "caption", tmp_path, "--base-url", server.url, "--json", "--no-check",
                "--shard", part, code=None,
            ).stdout
        )
        for part in ("1/2", "2/2")
    ]  # fmt: skip
    state = tmp_path / ".joycap"
    (state / "journal-other-1.jsonl").write_bytes(
        next(state.glob("journal-*-1.jsonl")).read_bytes()
    )
    make_pictures(tmp_path, 8)
    report = json.loads(joycap("report", tmp_path, "--json").stdout)
    status = json.loads(joycap("status", tmp_path, "--json").stdout)
    joycap("retry", tmp_path, "--base-url", server.url, "--no-check")
    joycap("export", tmp_path, "--format", "jsonl", "--out", tmp_path / "all.jsonl")
    rows = rows_of(tmp_path / "all.jsonl")

    assert sum(summary["tasks"] for summary in summaries) == 8
    assert sum(summary["failed"] for summary in summaries) == 1
    assert report["outcomes"] == {"ok": 7, "failed": 1} == status["recorded"]
    assert len(rows) == 8
    assert {row["outcome"] for row in rows.values()} == {"ok"}


def job_file(state: Path, example: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    shutil.copy(example / "job.json", state)


def line(key: str, caption: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return record(key, outcome, prompt="descriptive", caption=caption, **more)


@pytest.fixture
def example(apart: tuple[Path, list[Path]]) -> Path:
    return apart[1][0]


def test_of_a_task_in_two_folders_a_caption_goes_before_none_and_then_the_latest_counts(
    tmp_path: Path, example: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for state in (a, b):
        job_file(state, example)
    journal(
        a, line("x", "old", t=1e9), line("y", "kept", t=1e9), line("z", "", "failed", t=2e9),
        line("w", "first", t=1e9), line("w", "", "failed", t=3e9),
    )  # fmt: skip
    journal(
        b, line("x", "new", t=2e9), line("y", "", "failed", t=2e9), line("z", "found", t=1e9),
        line("w", "", "failed", t=1.5e9),
    )  # fmt: skip
    texts = []
    for order in ((a, b), (b, a)):
        joycap("export", *order, "--format", "jsonl", "--out", tmp_path / "all.jsonl")
        rows = rows_of(tmp_path / "all.jsonl")
        texts.append({key: (row["outcome"], row["caption"]) for key, row in rows.items()})
        outcomes = make_report(order).outcomes
        assert outcomes == {"ok": 3, "failed": 1}

    assert texts[0] == texts[1] == {
        "x": ("ok", "new"), "y": ("ok", "kept"), "z": ("ok", "found"), "w": ("failed", None),
    }  # fmt: skip


def test_pictures_that_share_a_name_and_nothing_else_are_told_of(
    tmp_path: Path, example: Path
) -> None:
    sizes = {"a": 100, "b": 200}
    for name, size in sizes.items():
        job_file(tmp_path / name, example)
        facts = {"width": 1, "height": 1, "bytes": size, "sha256": name}
        journal(tmp_path / name, line("1.jpg", name, image=facts))
    done = joycap(
        "export", tmp_path / "a", tmp_path / "b", "--format", "jsonl", "--out", tmp_path / "x",
        code=1,
    )  # fmt: skip

    assert "left out: 1, a caption of another picture that has the same name" in done.stderr


def test_jobs_that_asked_something_else_are_not_mixed(tmp_path: Path, server: FaultServer) -> None:
    pictures = tmp_path / "photos"
    make_pictures(pictures, 2)
    for name, words in (("a", "20"), ("b", "30")):
        caption(pictures, server, "--no-check", "--journal", tmp_path / name, "--words", words)
    done = joycap(
        "export", tmp_path / "a", tmp_path / "b", "--format", "jsonl", "--out", tmp_path / "x",
        code=2,
    )  # fmt: skip

    assert "did not ask the same" in done.stderr
    assert "prompts.descriptive" in done.stderr


def test_several_jobs_need_a_place_and_shards_need_the_images(
    tmp_path: Path, example: Path
) -> None:
    for name in ("a", "b"):
        job_file(tmp_path / name, example)
        journal(tmp_path / name, line(f"{name}.jpg", "x"))
    told = orjson.loads((tmp_path / "b" / "job.json").read_bytes())
    told["job"]["inputs"] = ["/elsewhere"]
    (tmp_path / "b" / "job.json").write_bytes(orjson.dumps(told))
    both = (tmp_path / "a", tmp_path / "b")

    assert "--out" in joycap("export", *both, "--format", "jsonl", code=2).stderr
    missing = joycap("export", *both, "--format", "tar", "--out", tmp_path / "t", code=2)
    assert "--source INPUT" in missing.stderr


def test_a_journal_alone_is_enough_beside_a_folder_that_tells_the_job(
    tmp_path: Path, example: Path
) -> None:
    job_file(tmp_path / "a", example)
    journal(tmp_path / "a", line("a.jpg", "x"))
    lone = journal(tmp_path / "lone", line("b.jpg", "y")).rename(tmp_path / "lone" / "gpu7.jsonl")
    out = tmp_path / "all.jsonl"
    joycap("export", lone, tmp_path / "a", "--format", "jsonl", "--out", out)
    nothing = joycap("export", lone, "--format", "jsonl", "--out", out, code=2)

    assert {key: row["caption"] for key, row in rows_of(out).items()} == {
        "a.jpg": "x",
        "b.jpg": "y",
    }
    assert "job.json is missing" in nothing.stderr


@pytest.mark.timeout(120)
def test_hundreds_of_journals_are_read_with_few_open_files(
    tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(400):
        state = tmp_path / f"node{number:03}"
        journal(state, *(line(f"{number}/{n}.jpg", f"{n} of {number}", t=1e9) for n in range(5)),
                looped(f"{number}/bad.jpg", 2, prompt="descriptive"))  # fmt: skip
    job_file(tmp_path / "node000", example)
    states = sorted(tmp_path.glob("node*"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = ["bash", "-c", 'ulimit -n 128 && exec "$0" "$@"']
    assert hard == resource.RLIM_INFINITY or hard >= 128
    out = tmp_path / "all.jsonl"
    calls: tuple[list[str | Path], ...] = (
        ["export", *states, "--format", "jsonl", "--out", out],
        ["report", *states, "--json", "--html", tmp_path / "page.html", "--pictures", "300"],
    )
    for arguments in calls:
        done = subprocess.run(
            [*few, *command(*arguments)], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr

    assert len(rows_of(out)) == 2400
    assert json.loads(done.stdout)["outcomes"] == {"ok": 2000, "glitched": 400}


def test_a_task_of_several_folders_takes_as_little_memory_as_of_one(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        rows = (record(f"{number}/{n}.jpg", t=1e9) for n in range(5000))
        files.append(journal(tmp_path / str(number), *rows))
    records = read_journals(files)
    columns = (records._places, records._moments, records._sizes, records._attempts, records._kinds)
    table = (records._table._heads, records._table._tails, records._table._slots)
    held = sum(len(column) * column.itemsize for column in (*columns, *table))

    assert len(records) == 20_000
    assert held / len(records) <= 50
