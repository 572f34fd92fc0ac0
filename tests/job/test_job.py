"""Whole jobs through the command line, against the fault server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from joycap_vllm.outputs import FILES, FORMS

from .helping import (
    caption,
    color_of,
    jobs_requests,
    joycap,
    make_pictures,
    records,
    sidecar,
)
from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving, truthful


def test_every_picture_gets_its_own_caption(tmp_path: Path, server: FaultServer) -> None:
    pictures = make_pictures(tmp_path, 24)
    summary = caption(tmp_path, server)

    assert (summary["images"], summary["ok"], summary["requests"]) == (24, 24, 24)
    for number, path in enumerate(pictures):
        assert sidecar(path).read_text() == name_of(color_of(number))


def test_the_same_command_again_asks_for_nothing(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 8)
    caption(tmp_path, server)
    before = len(server.asked)
    summary = caption(tmp_path, server)

    assert (summary["skipped"], summary["tasks"]) == (8, 8)
    assert len(server.asked) == before


def test_a_sidecar_that_was_lost_is_made_again_from_the_journal(
    tmp_path: Path, server: FaultServer
) -> None:
    first, *_ = make_pictures(tmp_path, 4)
    caption(tmp_path, server)
    sidecar(first).unlink()
    before = len(server.asked)
    caption(tmp_path, server)

    assert sidecar(first).read_text() == name_of(color_of(0))
    assert len(server.asked) == before


def test_a_refused_request_fails_at_once_with_the_servers_words(tmp_path: Path) -> None:
    def picky(asked: Asked) -> Reaction:
        return fail(400, "too ugly") if asked.color == color_of(1) else truthful(asked)

    make_pictures(tmp_path, 3)
    with serving(picky) as server:
        summary = caption(tmp_path, server, code=1)

    (failed,) = [r for r in records(tmp_path) if r["outcome"] == "failed"]
    assert (summary["ok"], summary["failed"]) == (2, 1)
    assert "too ugly" in failed["why"]
    assert len(failed["attempts"]) == 1


def test_broken_answers_are_asked_for_again(tmp_path: Path) -> None:
    faults = [
        fail(500),
        fail(502),
        fail(503, retry_after="0.1"),
        fail(429, retry_after="0.1"),
        Reaction(reset=True),
        Reaction(text="half", half=True),
        Reaction(garbage=b"<html>"),
        Reaction(hang=True),
    ]

    def faulty(asked: Asked) -> Reaction:
        return faults[asked.color[0]] if asked.attempt == 1 else truthful(asked)

    make_pictures(tmp_path, 8)
    with serving(faulty) as server:
        summary = caption(tmp_path, server, "--timeout", "1", "--no-check")

    assert (summary["ok"], summary["glitches"]) == (8, {})


def test_an_image_that_always_breaks_the_server_fails_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    def fragile(asked: Asked) -> Reaction:
        if asked.color == color_of(2):
            return fail(500, "engine hiccup")
        return say(name_of(asked.color), delay=0.1)

    make_pictures(tmp_path, 30)
    with serving(fragile) as server:
        summary = caption(tmp_path, server, "--concurrency", "2", code=1)

    assert (summary["ok"], summary["failed"]) == (29, 1)


BAD = {
    "empty.jpg": "empty",
    "text.jpg": "text",
    "cut.jpg": "truncated",
    "bomb.png": "million pixels",
}
FINE = ("16bit.png", "cmyk.jpg", "palette.png", "moving.gif", "turned.jpg", "dot.png", "long.png")


def make_odd_pictures(folder: Path) -> None:
    gray = Image.new("RGB", (300, 200), "gray")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("I am a text.")
    gray.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    Image.new("I;16", (30, 30), 40000).save(folder / "16bit.png")
    Image.new("CMYK", (30, 30)).save(folder / "cmyk.jpg")
    palette = Image.new("P", (30, 30))
    palette.save(folder / "palette.png", transparency=0)
    gray.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (300, 200))])
    exif = Image.Exif()
    exif[0x0112] = 6
    gray.save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (30000, 2)).save(folder / "long.png")


def test_bad_pictures_fail_with_a_reason_unasked_and_odd_ones_are_captioned(
    tmp_path: Path, server: FaultServer
) -> None:
    make_odd_pictures(tmp_path)
    summary = caption(tmp_path, server, code=1)
    failed = {r["key"]: r["why"] for r in records(tmp_path) if r["outcome"] == "failed"}

    assert set(failed) == set(BAD)
    assert all(reason in failed[key] for key, reason in BAD.items())
    assert summary["ok"] == len(FINE) == len(jobs_requests(server))
    assert all((tmp_path / name).with_suffix(".txt").exists() for name in FINE)


def test_a_bad_picture_that_was_mended_is_captioned_by_the_same_command(
    tmp_path: Path, server: FaultServer
) -> None:
    bad = tmp_path / "a.png"
    bad.write_bytes(b"")
    caption(tmp_path, server, code=1)
    again = caption(tmp_path, server, code=1)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(bad)
    mended = caption(tmp_path, server)

    assert again["failed"] == 1
    assert mended["ok"] == 1
    assert [r["outcome"] for r in records(tmp_path)] == ["failed", "ok"]


def test_equal_stems_keep_their_captions_apart_and_the_job_says_so_first(
    tmp_path: Path, server: FaultServer
) -> None:
    for number, name in enumerate(["a.jpg", "a.png", "x/a.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (50 * number, 0, 0)).save(tmp_path / name, quality=100)
    done = joycap("caption", tmp_path, "--base-url", server.url)

    assert "a.png -> a.png.txt" in done.stderr
    assert done.stderr.index("a.png.txt") < done.stderr.index("3 ok")
    assert (tmp_path / "a.png.txt").read_text() == name_of((50, 0, 0))
    assert (tmp_path / "x" / "a.txt").read_text() == name_of((100, 0, 0))
    assert (tmp_path / "a.txt").exists()


def test_other_settings_are_refused_with_the_difference_until_accepted(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    caption(tmp_path, server)
    flags = ["caption", str(tmp_path), "--base-url", server.url, "--temperature", "0.9"]
    refused = joycap(*flags, code=4)
    accepted = joycap(*flags, "--accept-changes", "--existing", "overwrite")

    assert "temperature: 0.6 -> 0.9" in refused.stderr
    assert "--accept-changes" in refused.stderr
    assert "2 ok" in accepted.stderr


def test_an_existing_sidecar_is_skipped_and_an_empty_one_is_filled(
    tmp_path: Path, server: FaultServer
) -> None:
    kept, empty = make_pictures(tmp_path, 2)
    sidecar(kept).write_text("mine")
    sidecar(empty).write_text("")
    summary = caption(tmp_path, server)

    assert (summary["skipped"], summary["ok"]) == (1, 1)
    assert sidecar(kept).read_text() == "mine"
    assert sidecar(empty).read_text() == name_of(color_of(1))


def test_dual_writes_two_lines_and_several_types_several_files(
    tmp_path: Path, server: FaultServer
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (path,) = make_pictures(one, 1)
    caption(one, server, "--dual")
    (other,) = make_pictures(two, 1)
    caption(two, server, "--type", "straightforward", "--type", "booru-like-tag-list")

    assert len(sidecar(path).read_text().splitlines()) == 2
    assert sidecar(other).exists()
    assert other.with_suffix(".booru-like-tag-list.txt").exists()


def test_shards_split_the_work_and_together_do_all_of_it(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 40)
    parts = [caption(tmp_path, server, "--shard", f"{i}/3")["ok"] for i in (1, 2, 3)]

    assert sum(parts) == 40
    assert all(parts)
    assert len(jobs_requests(server)) == 40


def test_limit_and_sample_take_a_part_and_a_dry_run_asks_nothing(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 12)
    dry = joycap("caption", tmp_path, "--base-url", server.url, "--dry-run", "--limit", "3")
    assert "3 images, 3 captions, 3 of them to do" in dry.stdout
    assert "Write a detailed description" in dry.stdout
    assert server.asked == []
    assert not (tmp_path / ".joycap" / "job.json").exists()

    assert caption(tmp_path, server, "--limit", "3")["ok"] == 3
    assert caption(tmp_path, server, "--sample", "5")["images"] == 5


@pytest.mark.parametrize("form", FORMS)
def test_a_dry_run_shows_where_any_form_of_output_goes(tmp_path: Path, form: str) -> None:
    make_pictures(tmp_path, 1)
    dry = joycap("caption", tmp_path, "--format", form, "--dry-run")

    assert "p 0.png" in dry.stdout
    assert {"txt": "p 0.txt", "tar": "shards"}.get(form, FILES.get(form, "")) in dry.stdout
    assert not (tmp_path / ".joycap").exists()


def test_rows_fill_prompts_and_their_captions_go_to_a_table(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 4)
    rows = [
        {"key": "one", "path": "p 0.png", "subject": "<|eot_id|> a {stem} & <image>"},
        {"key": "two", "path": "with space/p 1.png"},
        {"key": "one", "path": "ü/deep/p 2.png", "subject": "another"},
        {"path": "gone.png", "subject": "nothing"},
    ]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out" / "captions.jsonl"
    flags = ("--format", "jsonl", "--out", out, "--prompt", "Is it {subject}?", "--no-check")
    done = joycap("caption", manifest, "--base-url", server.url, "--json", *flags, code=1)
    table = {row["key"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}

    assert json.loads(done.stdout)["tasks"] == 3
    assert {asked.prompt for asked in server.asked} == {"Is it eot_id a {stem} & image?", "Is it ?"}
    assert table["one"]["caption"] == name_of(color_of(0)), "the first row of a key counts"
    assert {key: row["outcome"] for key, row in table.items()} == {
        "one": "ok", "two": "ok", "gone.png": "failed",
    }  # fmt: skip
    assert "an earlier one has their key" in done.stderr
    before = len(server.asked)
    make_pictures(tmp_path, 1)[0].rename(tmp_path / "gone.png")
    again = joycap("retry", out.parent, "--base-url", server.url, "--no-check")
    table = {row["key"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}

    assert len(server.asked) == before + 1, again.stderr
    assert table["gone.png"]["outcome"] == "ok"


def test_the_prompt_can_be_ones_own_with_variables(tmp_path: Path, server: FaultServer) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "my <|eot_id|> dog.png")
    prompt = "This is {stem} in {directory}, {unknown}."
    caption(tmp_path, server, "--prompt", prompt, "--no-check", "--system-prompt", "S")
    (asked,) = server.asked

    assert asked.prompt == "This is my eot_id dog in , {unknown}."
    assert asked.system == "S"
    assert records(tmp_path)[0]["asked"] == asked.prompt


def test_sampling_is_always_sent(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 1)
    caption(tmp_path, server, "--no-check", "--seed", "5", "--max-tokens", "99")
    (asked,) = server.asked
    sent = {k: v for k, v in asked.body.items() if k not in ("messages", "model")}

    assert sent == {
        "stream": False, "temperature": 0.6, "top_p": 0.9, "max_tokens": 99, "seed": 5,
    }  # fmt: skip
    assert [m["role"] for m in asked.body["messages"]] == ["system", "user"]
    assert [part["type"] for part in asked.body["messages"][1]["content"]] == ["image_url", "text"]


def test_no_server_is_exit_code_3_and_a_bad_flag_2(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    with serving() as gone:
        url = gone.url

    assert "cannot be reached" in joycap("caption", tmp_path, "--base-url", url, code=3).stderr
    assert "nonsense" in joycap("caption", tmp_path, "--type", "nonsense", code=2).stderr
    assert "does not exist" in joycap("caption", tmp_path / "no", code=2).stderr
    joycap("caption", tmp_path, "--no-such-flag", code=2)


def test_a_server_that_says_nothing_sane_is_refused_before_the_job(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    with serving(lambda _: say("!!!")) as server:
        done = joycap("caption", tmp_path, "--base-url", server.url, code=3)

    assert "did not pass its check" in done.stderr
    assert records(tmp_path) == []


def test_the_key_travels_in_a_header_and_stands_nowhere_else(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, "--base-url", server.url, "--json")
    files = [f for f in tmp_path.rglob("*") if f.is_file()]

    assert "sk-secret" not in done.stdout + done.stderr
    assert all(b"sk-secret" not in f.read_bytes() for f in files)


def test_a_sidecar_that_cannot_be_written_costs_no_other(
    tmp_path: Path, server: FaultServer
) -> None:
    one, two = make_pictures(tmp_path, 2)
    sidecar(one).mkdir()
    done = joycap("caption", tmp_path, "--base-url", server.url, code=1)

    assert "p 0.txt" in done.stderr
    assert sidecar(two).read_text() == name_of(color_of(1))
    assert len(records(tmp_path)) == 2


def test_report_tells_counts_and_reasons(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 3)
    (tmp_path / "bad\nname.png").write_bytes(b"")
    caption(tmp_path, server, code=1)
    told = joycap("report", tmp_path, "--json")
    data = json.loads(told.stdout)

    assert data["outcomes"] == {"ok": 3, "failed": 1}
    assert data["problems"][0]["key"] == "bad\nname.png"
    assert "0 bytes" in joycap("report", tmp_path).stdout


def test_a_moved_folder_keeps_its_journal(tmp_path: Path, server: FaultServer) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    make_pictures(old, 4)
    caption(old, server)
    shutil.move(old, new)
    os.sync()

    assert caption(new, server)["skipped"] == 4
