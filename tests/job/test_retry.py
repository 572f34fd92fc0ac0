"""`joycap retry`: just what ended without a caption is asked again, as the job asked it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.job.stored import StoredJob, load_job
from joycap_vllm.outputs import Dressing, SidecarOptions, TagOptions
from joycap_vllm.prompts import Choice, Prompt, Sampling, build_prompt

from .helping import (
    LOOP,
    REFUSAL,
    caption,
    color_of,
    jobs_requests,
    joycap,
    make_pictures,
    records,
    sidecar,
)
from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving, truthful


def retry(folder: Path, server: FaultServer, *flags: str | Path, code: int = 0) -> dict[str, Any]:
    done = joycap("retry", folder, "--base-url", server.url, "--json", *flags, code=code)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    counts = sum(summary[name] for name in ("ok", "skipped", "glitched", "failed"))
    assert counts == summary["tasks"]
    return summary


def troubled(asked: Asked) -> Reaction:
    """Of five pictures one loops, one refuses, and one breaks the request."""
    number = next((n for n in range(5) if color_of(n) == asked.color), None)
    return {1: say(LOOP), 2: say(REFUSAL), 3: fail(400, "no")}.get(number or 0, truthful(asked))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job of five pictures, two of them captioned."""
    folder = tmp_path / "job"
    make_pictures(folder, 5)
    with serving(troubled) as server:
        caption(folder, server, "--no-check", "--retries", "1", code=1)
    return folder


def test_just_the_tasks_without_a_caption_are_asked(job: Path, server: FaultServer) -> None:
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*.txt")}
    summary = retry(job, server)

    assert (summary["tasks"], summary["ok"]) == (3, 3)
    assert {asked.color for asked in jobs_requests(server)} == {color_of(n) for n in (1, 2, 3)}
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert {path.read_text() for path in job.rglob("*.txt")} == {
        name_of(color_of(n)) for n in range(5)
    }


def test_the_seeds_differ_from_those_of_every_run_before(job: Path, server: FaultServer) -> None:
    with serving(troubled) as stubborn:
        retry(job, stubborn, "--no-check", "--retries", "2", code=1)
        retry(job, stubborn, "--no-check", "--retries", "2", code=1)
    looped = [record for record in records(job) if record["glitch"] == "repetition"]
    seeds = [attempt["seed"] for record in looped for attempt in record["attempts"]]

    assert len(seeds) == 2 + 3 + 3
    assert len(set(seeds)) == len(seeds)


def test_again_takes_new_seeds_too(job: Path, server: FaultServer) -> None:
    caption(job, server, "--again", "glitched", code=1)
    (first, again) = [
        record["attempts"] for record in records(job) if record["key"] == "with space/p 1.png"
    ]

    assert {a["seed"] for a in first}.isdisjoint(a["seed"] for a in again)


def test_one_kind_of_glitch_may_be_asked_alone(job: Path, server: FaultServer) -> None:
    summary = retry(job, server, "--only", "refusal")

    assert (summary["tasks"], summary["ok"]) == (1, 1)
    assert [asked.color for asked in jobs_requests(server)] == [color_of(2)]


def test_failed_pictures_are_read_again(tmp_path: Path, server: FaultServer) -> None:
    _, bad = make_pictures(tmp_path, 2)
    whole = bad.read_bytes()
    bad.write_bytes(whole[:60])
    caption(tmp_path, server, code=1)
    still = retry(tmp_path, server, "--only", "failed", code=1)
    bad.write_bytes(whole)
    mended = retry(tmp_path, server, "--only", "failed")

    assert (still["failed"], mended["ok"], mended["tasks"]) == (1, 1, 1)
    assert sidecar(bad).read_text() == name_of(color_of(1))


@pytest.mark.parametrize("kept", ["skip", "keep"])
def test_a_kept_glitch_gives_way_and_what_stood_beside_it_stays(
    tmp_path: Path, server: FaultServer, kept: str
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("My words.")
    flags = ["--existing", "append", "--on-glitch", kept, "--no-check", "--retries", "0"]
    with serving(lambda _: say(REFUSAL)) as refusing:
        caption(tmp_path, refusing, *flags, code=1)
        retry(tmp_path, refusing, "--no-check", "--retries", "0", code=1)
    retry(tmp_path, server, "--no-check")

    assert sidecar(path).read_text() == f"My words. {name_of(color_of(0))}"


def test_a_limit_for_glitches_may_be_set_and_its_advice_is_of_this_command(
    tmp_path: Path,
) -> None:
    make_pictures(tmp_path, 50)
    with serving(lambda _: say(REFUSAL)) as server:
        caption(
            tmp_path, server, "--no-check", "--retries", "0", "--max-glitch-rate", "off", code=1
        )
        flags = ["--base-url", server.url, "--no-check", "--retries", "0"]
        joycap("retry", tmp_path, *flags, code=1)
        done = joycap("retry", tmp_path, *flags, "--max-glitch-rate", "0.2", code=3)

    assert "--max-glitch-rate, now 0.2" in done.stderr
    assert "--again" not in done.stderr


def test_nothing_to_do_is_said_and_no_server_is_needed(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    with serving() as server:
        caption(tmp_path, server)
    done = joycap("retry", tmp_path, "--base-url", server.url, "--json")

    assert "nothing to ask again" in done.stderr
    assert json.loads(done.stdout)["tasks"] == 0


def test_wrong_uses_say_what_is_wrong(tmp_path: Path, job: Path) -> None:
    assert "no journal" in joycap("retry", tmp_path / "none", code=2).stderr
    assert "refusal" in joycap("retry", job, "--only", "nonsense", code=2).stderr


def test_the_jobs_own_prompts_and_sidecars_are_used(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path / "in", 1)
    flags = "--type straightforward --words 40 --ext cap --trigger ohwx".split()
    with serving(lambda _: say(REFUSAL)) as server:
        flags += ["--out", str(tmp_path / "out")]
        caption(path.parent, server, "--no-check", "--retries", "0", *flags, code=1)
        (first,) = server.asked
    with serving() as server:
        retry(tmp_path / "out", server, "--no-check")
        (again,) = server.asked

    assert (again.prompt, again.system) == (first.prompt, first.system)
    assert (tmp_path / "out" / "p 0.cap").read_text() == f"ohwx, {name_of(color_of(0))}"


def test_a_dual_job_keeps_the_line_that_is_good(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)

    def half(asked: Asked) -> Reaction:
        return say(LOOP) if "tag" in asked.prompt else say("A plain picture.")

    with serving(half) as server:
        caption(tmp_path, server, "--dual", "--no-check", "--retries", "0", code=1)
    assert not sidecar(path).exists()
    with serving(lambda _: say("picture, plain, simple")) as server:
        summary = retry(tmp_path, server, "--no-check")

    assert (summary["tasks"], len(server.asked)) == (1, 1)
    assert sidecar(path).read_text() == "picture, plain, simple\nA plain picture."


def test_a_glitch_that_was_handed_out_is_replaced_but_a_users_own_text_stays(
    tmp_path: Path, server: FaultServer
) -> None:
    ours, theirs = make_pictures(tmp_path, 2)
    with serving(lambda _: say("A cut text", "length")) as cutting:
        flags = ["--no-check", "--retries", "0", "--on-glitch", "keep"]
        caption(tmp_path, cutting, *flags, code=1)
    sidecar(theirs).write_text("written by hand")
    summary = retry(tmp_path, server)

    assert (summary["ok"], summary["skipped"]) == (1, 1)
    assert sidecar(ours).read_text() == name_of(color_of(0))
    assert sidecar(theirs).read_text() == "written by hand"


def test_images_that_are_gone_are_left_out_and_said(job: Path, server: FaultServer) -> None:
    (job / "with space" / "p 1.png").unlink()
    done = joycap("retry", job, "--base-url", server.url, code=1)

    assert "1 are left out" in done.stderr
    assert "2 ok" in done.stderr


def test_a_moved_folder_is_asked_where_it_is_now(job: Path, server: FaultServer) -> None:
    moved = job.with_name("moved")
    shutil.move(job, moved)

    assert retry(moved, server)["ok"] == 3
    assert (moved / "with space" / "p 1.txt").exists()


@pytest.mark.parametrize("moved", ["tree", "out"])
def test_a_job_with_a_folder_for_its_captions_finds_its_images_after_a_move(
    tmp_path: Path, server: FaultServer, moved: str
) -> None:
    make_pictures(tmp_path / "tree" / "in", 2)
    out = tmp_path / "tree" / "out"
    with serving(lambda _: say(REFUSAL)) as refusing:
        flags = ["--no-check", "--retries", "0"]
        caption(tmp_path / "tree" / "in", refusing, "--out", out, *flags, code=1)
    (tmp_path / "else" / "where").mkdir(parents=True)
    if moved == "tree":
        shutil.move(tmp_path / "tree", tmp_path / "else" / "tree")
        out = tmp_path / "else" / "tree" / "out"
    else:
        out = out.rename(tmp_path / "else" / "where" / "out")

    assert retry(out, server, "--no-check")["ok"] == 2
    assert (out / "p 0.txt").read_text() == name_of(color_of(0))


def test_a_folder_of_images_that_is_gone_is_named_and_its_tasks_are_not_fine(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path / "in", 2)
    with serving(lambda _: say(REFUSAL)) as refusing:
        flags = ["--no-check", "--retries", "0", "--out", str(tmp_path / "out")]
        caption(tmp_path / "in", refusing, *flags, code=1)
    (tmp_path / "in").rename(tmp_path / "away")
    done = joycap("retry", tmp_path / "out", "--base-url", server.url, code=1)

    assert f"the folder of their images, {tmp_path / 'in'}, is not there" in done.stderr
    assert "nothing else to ask again" in done.stderr


@pytest.mark.parametrize("key", ["../other/v.png", "{}/other/v.png", "a/../../other/v.png"])
def test_a_key_that_leads_out_of_the_jobs_folder_is_not_followed(
    tmp_path: Path, server: FaultServer, key: str
) -> None:
    folder = tmp_path / "job"
    (path,) = make_pictures(folder, 1)
    make_pictures(tmp_path / "other", 1)[0].rename(tmp_path / "other" / "v.png")
    with serving(lambda _: say(REFUSAL)) as refusing:
        caption(folder, refusing, "--no-check", "--retries", "0", code=1)
    (row,) = records(folder)
    (folder / ".joycap" / "journal-x-1.jsonl").write_bytes(
        orjson.dumps(row | {"key": key.format(tmp_path)}) + b"\n"
    )
    done = joycap("retry", folder, "--base-url", server.url, "--no-check", code=1)

    assert "1 are left out: the journal names images outside" in done.stderr
    assert len(server.asked) == 1
    assert sidecar(path).exists()
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["v.png"]


def test_a_journal_elsewhere_is_to_be_named(tmp_path: Path, server: FaultServer) -> None:
    (path,) = make_pictures(tmp_path / "in", 1)
    with serving(lambda _: say(REFUSAL)) as refusing:
        flags = ["--journal", str(tmp_path / "kept"), "--no-check", "--retries", "0"]
        caption(tmp_path / "in", refusing, *flags, code=1)
    done = joycap("retry", tmp_path / "in", "--base-url", server.url, code=2)

    assert "--journal" in done.stderr
    assert retry(tmp_path / "kept", server, "--no-check")["ok"] == 1
    assert sidecar(path).exists()


def test_folders_whose_names_are_no_text_are_found_again(tmp_path: Path) -> None:
    inside, out = (tmp_path / os.fsdecode(name) for name in (b"in\xff", b"out\xfe"))
    make_pictures(inside, 2)
    with serving(lambda _: say(REFUSAL)) as server:
        caption(inside, server, "--out", out, "--no-check", "--retries", "0", code=1)
    with serving() as server:
        assert retry(out, server, "--no-check")["ok"] == 2

    assert len(list(out.rglob("*.txt"))) == 2


def test_many_that_stay_bad_do_not_stop_the_others(tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)

    def stubborn(asked: Asked) -> Reaction:
        return say(REFUSAL) if asked.color != color_of(59) else truthful(asked)

    with serving(lambda _: say(REFUSAL)) as server:
        flags = ["--no-check", "--retries", "0", "--max-glitch-rate", "off"]
        caption(tmp_path, server, *flags, code=1)
    with serving(stubborn) as server:
        summary = retry(tmp_path, server, "--no-check", "--retries", "0", code=1)

    assert (summary["ok"], summary["glitched"]) == (1, 59)


def test_a_job_of_an_earlier_version_names_the_way_out(job: Path, server: FaultServer) -> None:
    file = job / ".joycap" / "job.json"
    data = orjson.loads(file.read_bytes())
    del data["job"]
    file.write_bytes(orjson.dumps(data))
    refused = joycap("retry", job, code=2)
    caption(job, server, code=1)
    caption(job, server, code=1)

    assert "joycap caption" in refused.stderr
    assert retry(job, server)["ok"] == 3


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
prompts = st.builds(
    Prompt,
    name=texts,
    text=texts,
    system=texts,
    style=st.sampled_from(["prose", "tags", "mixed"]),
    words=st.none() | st.integers(1, 500),
    template=st.booleans(),
    choices=st.lists(st.builds(Choice, texts, st.floats(0.5, 9)), max_size=2).map(tuple),
    sampling=st.builds(Sampling, seed=st.none() | st.integers(0, 2**31)),
)
folders = st.sampled_from(["/data/in", "/data", "/other ü/\\x80", "/data/\udcff"]).map(Path)


@given(st.lists(prompts, min_size=1, max_size=3), folders, st.none() | folders, texts)
def test_a_stored_job_comes_back_as_it_was(
    asked: list[Prompt], root: Path, out: Path | None, prefix: str
) -> None:
    state = Path("/data/in/.joycap")
    sidecars = SidecarOptions(
        prompts=tuple(prompt.name for prompt in asked),
        tag_prompts=frozenset(p.name for p in asked if p.style == "tags"),
        root=root,
        out=out,
        together=len(asked) > 1,
        existing="append",
        dressing=Dressing(prefix, tags=TagOptions("spaces", first=("1girl", prefix))),
    )
    job = StoredJob(state, tuple(asked), sidecars, "keep")

    assert StoredJob.of_entry(orjson.loads(orjson.dumps(job.entry())), state) == job


def test_a_job_stored_in_its_own_folder_moves_with_it(tmp_path: Path) -> None:
    sidecars = SidecarOptions(prompts=("descriptive",), root=Path("/data/in"))
    job = StoredJob(Path("/data/in/.joycap"), (build_prompt(),), sidecars)
    (tmp_path / "job.json").write_bytes(orjson.dumps({"job": job.entry()}))

    assert load_job(tmp_path).sidecars.root == tmp_path.parent
