"""`joycap export`: any output again from the journal, as often as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from outputs.exports import samples

from joycap_vllm.errors import UsageError
from joycap_vllm.job import export_job, load_job
from joycap_vllm.job.captions import Captions
from joycap_vllm.job.export import default_out, out_of
from joycap_vllm.job.records import read_records
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.outputs import FORMS, Dressing, SidecarOptions
from joycap_vllm.prompts import build_prompt
from joycap_vllm.sources import files_source

from .helping import LOOP, caption, color_of, command, joycap, make_pictures, sidecar
from .journals import record
from fault_server import Asked, FaultServer, Reaction, name_of, say, serving, truthful


def troubled(asked: Asked) -> Reaction:
    return say(LOOP) if asked.color == color_of(1) else truthful(asked)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of four pictures: one loops and one is damaged."""
    folder = tmp_path_factory.mktemp("done")
    pictures = make_pictures(folder, 4)
    pictures[3].write_bytes(b"no image")
    os.environ["JOYCAP_WIRE"] = "png"
    with serving(troubled) as server:
        caption(folder, server, "--no-check", "--retries", "0", "--trigger", "trg", code=1)
    del os.environ["JOYCAP_WIRE"]
    return folder


def job_of(folder: Path, *names: str, **options: Any) -> StoredJob:
    prompts = tuple(build_prompt(name) for name in names or ("descriptive",))
    tags = frozenset(p.name for p in prompts if p.style == "tags")
    sidecars = SidecarOptions(tuple(p.name for p in prompts), folder, tags)
    return StoredJob(folder / ".joycap", prompts, sidecars, **options)


def journal_of(folder: Path, *rows: Any, number: int = 1) -> Path:
    state = folder / ".joycap"
    state.mkdir(exist_ok=True)
    path = state / f"journal-host-{number}.jsonl"
    with path.open("ab") as file:
        file.writelines(r if isinstance(r, bytes) else orjson.dumps(r) + b"\n" for r in rows)
    return path


def row(key: str, caption: str, prompt: str = "descriptive", **more: Any) -> dict[str, Any]:
    return record(key, prompt=prompt, caption=caption, **more)


def captions_of(job: StoredJob) -> list[tuple[str, dict[str, str]]]:
    with Captions(job, read_records(job.state)) as captions:
        return [(image.key, dict(image.captions)) for image in captions.all()]


def test_every_image_is_a_row_and_only_captions_are_handed_out(done: Path, tmp_path: Path) -> None:
    joycap("export", done, "--format", "jsonl", "--out", tmp_path / "c.jsonl")
    rows = {r["key"]: r for r in map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())}

    assert rows["p 0.png"]["caption"] == f"trg, {name_of(color_of(0))}"
    assert (rows["p 0.png"]["path"], rows["p 0.png"]["model"]) == (str(done / "p 0.png"), "fault")
    looped, failed = rows["with space/p 1.png"], rows["-dash/p 3.png"]
    assert (looped["outcome"], looped["glitch"], looped["caption"]) == (
        "glitched",
        "repetition",
        None,
    )
    assert (failed["outcome"], failed["caption"]) == ("failed", None)
    assert "not an image" in failed["why"]
    assert len(rows) == 4


@pytest.mark.parametrize("form", FORMS)
def test_each_format_has_the_captions_that_the_sidecars_have(
    done: Path, tmp_path: Path, form: str
) -> None:
    out = done / "metadata.jsonl" if form == "imagefolder" else tmp_path / "out"
    finished = joycap("export", done, "--format", form, "--out", out, "--json")
    summary = json.loads(finished.stdout)
    expected = {path.read_text() for path in done.rglob("*.txt")}
    assert len(expected) == 2
    if form == "txt":
        assert {path.read_text() for path in out.rglob("*.txt")} == expected
        return
    text = b"".join(Path(file).read_bytes() for file in summary["files"])
    if form == "parquet":
        found = set(pq.read_table(summary["files"][0])["caption"].to_pylist()) - {None}
        assert found == expected
        return
    assert all(caption.encode() in text for caption in expected)
    left = sum(summary["left_out"].values())
    assert (summary["rows"], left) == ((4, 0) if form == "jsonl" else (2, 2))


def test_a_later_record_of_a_task_counts_and_an_image_comes_once(tmp_path: Path) -> None:
    journal_of(tmp_path, row("a", "Old."), row("b", "B.", t=2e9), row("a", "New.", t=1.1e9))
    journal_of(tmp_path, row("b", "Older.", t=1.5e9), row("c", "C."), number=2)

    assert captions_of(job_of(tmp_path)) == [
        ("b", {"descriptive": "B."}),
        ("a", {"descriptive": "New."}),
        ("c", {"descriptive": "C."}),
    ]


def test_prompts_of_an_image_come_together_wherever_they_are_recorded(tmp_path: Path) -> None:
    journal_of(tmp_path, row("a", "A dog."), row("b", "B."))
    journal_of(tmp_path, row("a", "Plain.", "straightforward"), number=2)
    journal_of(tmp_path, row("a", "Dropped.", "art-critic"), number=3)

    assert captions_of(job_of(tmp_path, "descriptive", "straightforward")) == [
        ("a", {"descriptive": "A dog.", "straightforward": "Plain."}),
        ("b", {"descriptive": "B."}),
    ]


@pytest.mark.parametrize("kept", ["skip", "keep"])
def test_a_glitched_text_is_handed_out_only_where_the_job_keeps_it(
    tmp_path: Path, kept: Any
) -> None:
    journal_of(tmp_path, row("a", "Bad\nbut best.", outcome="glitched", glitch="truncated"))
    expected = {"descriptive": "Bad but best."} if kept == "keep" else {}

    assert captions_of(job_of(tmp_path, on_glitch=kept)) == [("a", expected)]


def test_a_torn_or_damaged_line_is_passed_over(tmp_path: Path) -> None:
    journal_of(tmp_path, row("a", "A."), b'{"key":"b","pro\n', b"[]\n", row("c", "C."), b'{"key"')

    assert [key for key, _ in captions_of(job_of(tmp_path))] == ["a", "c"]


def test_a_key_that_leads_out_of_the_folder_names_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (tmp_path / "out.png").write_bytes(b"x")
    (folder / "in.png").write_bytes(b"x")
    keys = ["../out.png", str(tmp_path / "out.png"), "in.png", "in.png/x", "a\0b"]
    journal_of(folder, *(row(key, "A.") for key in keys))
    job = job_of(folder)
    with Captions(job, read_records(job.state)) as captions:
        paths = [image.path for image in captions.all()]

    assert paths == [None, None, folder / "in.png", None, None]


def test_a_source_says_which_images_and_where_they_are(tmp_path: Path) -> None:
    path, other = make_pictures(tmp_path, 2)
    journal_of(tmp_path, row("with space/p 1.png", "One."), row("p 0.png", "Zero."))
    source = files_source(tmp_path, [path])
    done = export_job(job_of(tmp_path), "kohya", source=source)

    assert list(json.loads(done.files[0].read_text())) == [str(path)]
    assert (done.rows, done.captions, done.complete) == (1, 1, True)
    assert other.exists()


def test_an_image_that_is_gone_is_told_and_is_no_success(tmp_path: Path) -> None:
    path, gone = make_pictures(tmp_path, 2)
    with serving() as server:
        caption(tmp_path, server, "--no-check")
    gone.unlink()
    finished = joycap("export", tmp_path, "--format", "kohya", code=1)

    assert list(json.loads((tmp_path / "meta.json").read_text())) == [str(path)]
    assert "left out: 1, no file of this machine" in finished.stderr


def test_shards_hold_the_images_themselves(done: Path, tmp_path: Path) -> None:
    finished = joycap("export", done, "--format", "tar", "--out", tmp_path / "shards")
    (path,) = (tmp_path / "shards").glob("*.tar")
    found = samples(path)

    assert {s["__key__"]: s["png"] for s in found} == {
        "p 0": (done / "p 0.png").read_bytes(),
        "ü/deep/p 2": (done / "ü" / "deep" / "p 2.png").read_bytes(),
    }
    assert finished.stdout.strip() == str(path)


def test_images_that_share_a_stem_are_samples_of_their_own(
    tmp_path: Path, server: FaultServer
) -> None:
    first, second = make_pictures(tmp_path, 2)
    (tmp_path / "a.png").write_bytes(first.read_bytes())
    (tmp_path / "a.bmp").write_bytes(second.read_bytes())
    (tmp_path / "a.b.png").write_bytes(second.read_bytes())
    caption(tmp_path, server, "--no-check")
    joycap("export", tmp_path, "--format", "tar")
    found = samples(tmp_path / "shards" / "000000.tar")

    assert len({sample["__key__"] for sample in found}) == len(found) == 5


def test_the_same_journal_makes_the_same_files(done: Path, tmp_path: Path) -> None:
    for form in ("jsonl", "parquet", "kohya", "finetune", "tar"):
        made = []
        for number in (1, 2):
            exported = export_job(load_job(done / ".joycap"), form, tmp_path / f"{form}{number}")
            made.append([file.read_bytes() for file in exported.files])
        assert made[0] == made[1]


def test_of_two_exports_at_once_the_later_one_sees_all(tmp_path: Path) -> None:
    journal_of(tmp_path, row("a", "A."))
    (tmp_path / ".joycap" / "job.json").write_bytes(
        orjson.dumps({"v": 1, "settings": {}, "job": job_of(tmp_path).entry()})
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys\n"
         "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
         "print(1, flush=True); sys.stdin.read()", tmp_path / ".joycap" / "export.lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    later = subprocess.Popen(
        command("export", tmp_path, "--format", "jsonl"), stderr=subprocess.PIPE, text=True
    )
    assert later.stderr is not None
    assert "waiting" in later.stderr.readline()
    journal_of(tmp_path, row("b", "B."))
    holder.communicate("")
    later.communicate(timeout=30)

    assert len((tmp_path / "captions.jsonl").read_bytes().splitlines()) == 2


def test_a_killed_export_leaves_the_old_file_and_the_next_one_clears_up(tmp_path: Path) -> None:
    journal_of(tmp_path, *(row(f"{n}", "A. " * 100) for n in range(20_000)))
    (tmp_path / ".joycap" / "job.json").write_bytes(
        orjson.dumps({"v": 1, "settings": {}, "job": job_of(tmp_path).entry()})
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "captions.jsonl").write_text("old")
    killed = subprocess.Popen(command("export", tmp_path, "--format", "jsonl", "--out", out))
    deadline = time.monotonic() + 30
    while len(list(out.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    left = list(out.iterdir())
    assert (out / "captions.jsonl").read_text() == "old"
    joycap("export", tmp_path, "--format", "jsonl", "--out", out)

    assert len(left) == 2
    assert [path.name for path in out.iterdir()] == ["captions.jsonl"]
    assert len((out / "captions.jsonl").read_bytes().splitlines()) == 20_000


def test_a_journal_that_can_only_be_read_is_exported(done: Path, tmp_path: Path) -> None:
    (done / ".joycap").chmod(0o555)
    try:
        joycap("export", done, "--format", "jsonl", "--out", tmp_path / "c.jsonl")
    finally:
        (done / ".joycap").chmod(0o755)

    assert (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    ("form", "out", "expected"),
    [
        ("jsonl", None, "captions.jsonl"),
        ("parquet", None, "captions.parquet"),
        ("kohya", None, "meta.json"),
        ("imagefolder", None, "metadata.jsonl"),
        ("finetune", None, "finetune.json"),
        ("tar", None, "shards"),
        ("jsonl", "new", "new/captions.jsonl"),
        ("jsonl", "a.jsonl", "a.jsonl"),
        ("kohya", "a.json", "a.json"),
        ("tar", "new", "new"),
    ],
)
def test_an_output_goes_where_it_is_expected(
    tmp_path: Path, form: Any, out: str | None, expected: str
) -> None:
    given = None if out is None else tmp_path / out

    assert out_of(job_of(tmp_path), form, given) == tmp_path / expected


@pytest.mark.parametrize(
    ("form", "out"), [("jsonl", "a.json"), ("tar", "a.tar"), ("imagefolder", "a.jsonl")]
)
def test_a_name_of_another_format_is_wrong_usage(tmp_path: Path, form: Any, out: str) -> None:
    with pytest.raises(UsageError, match=out):
        out_of(job_of(tmp_path), form, tmp_path / out)


def test_a_journal_kept_elsewhere_gets_its_outputs_there(tmp_path: Path) -> None:
    job = StoredJob(tmp_path / "kept", (), SidecarOptions(("a",), tmp_path / "photos"))

    assert default_out(job, "jsonl") == tmp_path / "kept" / "captions.jsonl"
    assert default_out(job, "imagefolder") == tmp_path / "photos" / "metadata.jsonl"


def test_without_a_journal_it_is_wrong_usage(tmp_path: Path) -> None:
    finished = joycap("export", tmp_path, "--format", "jsonl", code=2)

    assert f"no journal in {tmp_path}" in finished.stderr


def test_dressing_is_that_of_the_sidecars(tmp_path: Path, server: FaultServer) -> None:
    (path,) = make_pictures(tmp_path, 1)
    caption(tmp_path, server, "--no-check", "--prefix", "pre ", "--trigger", "trg")
    (found,) = captions_of(load_job(tmp_path / ".joycap"))

    assert found[1]["descriptive"] == sidecar(path).read_text()
    assert load_job(tmp_path / ".joycap").sidecars.dressing == Dressing("pre ", "", "trg")
