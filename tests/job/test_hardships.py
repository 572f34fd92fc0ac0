"""What strangers did to jobs, each of it once a fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from .helping import (
    LOOP,
    REFUSAL,
    caption,
    color_of,
    command,
    joycap,
    make_pictures,
    records,
    sidecar,
    start_and_wait_for,
)
from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving, truthful


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), color_of(number)).save(path)
    return path


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_caption_that_was_mended_by_hand_stays(
    tmp_path: Path, server: FaultServer, existing: str
) -> None:
    first, *_ = make_pictures(tmp_path, 3)
    caption(tmp_path, server, "--existing", existing)
    sidecar(first).write_text("mended by hand")
    caption(tmp_path, server, "--existing", existing)

    assert sidecar(first).read_text() == "mended by hand"


def test_dual_captions_are_appended_once(tmp_path: Path, server: FaultServer) -> None:
    (path,) = make_pictures(tmp_path, 1)
    for _ in range(3):
        caption(tmp_path, server, "--dual", "--existing", "append")

    assert len(sidecar(path).read_text().splitlines()) == 2


def test_a_picture_that_is_added_takes_nobodys_sidecar(tmp_path: Path, server: FaultServer) -> None:
    picture(tmp_path / "a.png", 1)
    caption(tmp_path, server)
    picture(tmp_path / "a.bmp", 2)
    caption(tmp_path, server)
    again = caption(tmp_path, server)

    assert (tmp_path / "a.txt").read_text() == name_of(color_of(1))
    assert (tmp_path / "a.bmp.txt").read_text() == name_of(color_of(2))
    assert again["skipped"] == 2


def test_a_part_of_a_folder_keeps_to_the_whole_folders_names(
    tmp_path: Path, server: FaultServer
) -> None:
    picture(tmp_path / "a.bmp", 1)
    picture(tmp_path / "a.png", 2)
    caption(tmp_path / "*.png", server)
    caption(tmp_path / "*.bmp", server)

    assert (tmp_path / "a.txt").read_text() == name_of(color_of(1))
    assert (tmp_path / "a.png.txt").read_text() == name_of(color_of(2))


def test_one_journal_is_not_shared_by_two_folders(tmp_path: Path, server: FaultServer) -> None:
    for number, day in enumerate(("day1", "day2")):
        picture(tmp_path / day / "img.png", number)
    flags = ["--base-url", server.url, "--journal", str(tmp_path / "j")]
    joycap("caption", tmp_path / "day1", *flags)
    refused = joycap("caption", tmp_path / "day2", *flags, code=4)

    assert "root" in refused.stderr
    assert not (tmp_path / "day2" / "img.txt").exists()


def test_a_replaced_picture_does_not_get_the_old_ones_caption(
    tmp_path: Path, server: FaultServer
) -> None:
    path = picture(tmp_path / "a.png", 1)
    caption(tmp_path, server)
    Image.new("RGB", (400, 300), color_of(2)).save(path)
    sidecar(path).unlink()
    caption(tmp_path, server)

    assert sidecar(path).read_text() == name_of(color_of(2))


def test_an_interrupt_during_the_check_ends_at_once(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    with serving(lambda _: Reaction(hang=True)) as server:
        job = subprocess.Popen(
            command("caption", tmp_path, "--base-url", server.url), stderr=subprocess.PIPE
        )
        while not server.asked:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=15)

    assert job.returncode == 130


def test_an_interrupt_while_the_server_is_down_ends_at_once(tmp_path: Path) -> None:
    make_pictures(tmp_path, 12)
    server = FaultServer(lambda asked: say(name_of(asked.color), delay=0.2))
    job = start_and_wait_for(tmp_path, server, 5)
    server.close()
    assert job.stderr is not None
    time.sleep(1)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=20)

    assert job.returncode == 130


def test_a_pipe_named_like_an_image_fails_and_holds_nothing_up(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    os.mkfifo(tmp_path / "z.png")
    summary = caption(tmp_path, server, code=1)

    assert (summary["ok"], summary["failed"]) == (2, 1)


def test_of_two_that_start_together_one_works(tmp_path: Path) -> None:
    make_pictures(tmp_path, 12)
    with serving(lambda asked: say(name_of(asked.color), delay=0.3)) as server:
        line = command("caption", tmp_path, "--base-url", server.url, "--concurrency", "2")
        jobs = [subprocess.Popen(line, stderr=subprocess.PIPE) for _ in range(2)]
        for job in jobs:
            job.communicate(timeout=40)

    assert sorted(job.returncode for job in jobs) == [0, 2]
    assert len(records(tmp_path)) == 12


def test_a_forbidden_picture_fails_and_the_others_go_on(tmp_path: Path) -> None:
    def guarded(asked: Asked) -> Reaction:
        return fail(403, "not this one") if asked.color == color_of(1) else truthful(asked)

    make_pictures(tmp_path, 5)
    with serving(guarded) as server:
        summary = caption(tmp_path, server, code=1)

    assert (summary["ok"], summary["failed"]) == (4, 1)


def test_a_key_that_is_refused_ends_the_job_and_the_summary_is_there(tmp_path: Path) -> None:
    def revoked(asked: Asked) -> Reaction:
        return fail(401, "bad [/x] key") if len(server.asked) > 4 else truthful(asked)

    make_pictures(tmp_path, 12)
    with serving(revoked) as server:
        flags = ["--base-url", server.url, "--json", "--concurrency", "1", "--no-check"]
        done = joycap("caption", tmp_path, *flags, code=3)

    assert "refuses the API key" in done.stderr
    assert json.loads(done.stdout)["ok"] == 4


@pytest.mark.parametrize("count", [1, 5])
def test_a_picture_that_alone_breaks_a_healthy_server_fails_soon(
    tmp_path: Path, count: int
) -> None:
    def poisoned(asked: Asked) -> Reaction:
        return Reaction(reset=True) if asked.color == color_of(0) else truthful(asked)

    make_pictures(tmp_path, count)
    with serving(poisoned) as server:
        summary = caption(tmp_path, server, "--no-check", code=1)

    (failed,) = (r for r in records(tmp_path) if r["outcome"] == "failed")
    assert (summary["ok"], summary["failed"]) == (count - 1, 1)
    assert "the server broke 5 times on it and is well otherwise" in failed["why"]


def test_a_server_that_only_says_that_it_is_well_is_waited_for_and_no_picture_is_blamed(
    tmp_path: Path,
) -> None:
    make_pictures(tmp_path, 1)
    with serving(lambda _: fail(500, "out of memory")) as server:
        flags = ["--base-url", server.url, "--no-check", "--patience", "1"]
        stopped = joycap("caption", tmp_path, *flags, code=3)
        server.script = truthful
        summary = caption(tmp_path, server)

    assert "no endpoint has answered for 1 s" in stopped.stderr
    assert "out of memory" in stopped.stderr
    assert (summary["ok"], summary["skipped"]) == (1, 0)


def test_a_server_that_only_refuses_stops_the_job_and_again_mends_it(tmp_path: Path) -> None:
    make_pictures(tmp_path, 80)
    with serving(lambda _: say(REFUSAL)) as broken:
        flags = ["--base-url", broken.url, "--no-check", "--retries", "0", "--concurrency", "2"]
        stopped = joycap("caption", tmp_path, *flags, code=3)
    with serving() as mended:
        summary = caption(tmp_path, mended, "--again", "glitched")

    assert "got an answer that is no caption" in stopped.stderr
    assert (summary["ok"], summary["tasks"]) == (80, 80)


def test_again_takes_a_kind_of_glitch_only(tmp_path: Path, server: FaultServer) -> None:
    def two_kinds(asked: Asked) -> Reaction:
        return say(LOOP) if asked.color == color_of(0) else say("A cut", "length")

    make_pictures(tmp_path, 2)
    with serving(two_kinds) as broken:
        caption(tmp_path, broken, "--no-check", "--retries", "0", code=1)
    summary = caption(tmp_path, server, "--again", "repetition", code=1)

    assert (summary["ok"], summary["glitched"]) == (1, 1)


def test_everything_is_asked_again_of_another_model_but_for_a_users_own_words(
    tmp_path: Path, server: FaultServer
) -> None:
    pictures = make_pictures(tmp_path, 3)
    caption(tmp_path, server)
    own = pictures[1].with_suffix(".txt")
    own.write_text("my own words")
    with serving(lambda asked: say(f"Another model sees {name_of(asked.color)} here.")) as other:
        summary = caption(tmp_path, other, "--again", "all")
    texts = [picture.with_suffix(".txt").read_text() for picture in pictures]

    assert (summary["ok"], summary["skipped"]) == (2, 1)
    assert [text.startswith("Another model sees") for text in texts] == [True, False, True]
    assert texts[1] == "my own words"


def test_no_secret_is_shown_and_a_line_feed_behind_a_key_does_no_harm(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 1)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    caption(tmp_path, server)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sécret")
    odd = joycap("caption", tmp_path, "--base-url", server.url, code=2)
    url = joycap("caption", tmp_path, "--base-url", "http://u:PASS@127.0.0.1:9", code=2)

    assert "cret" not in odd.stderr
    assert "PASS" not in url.stderr


@pytest.mark.parametrize(("status", "code"), [(400, 1), (500, 3)])
def test_a_key_that_a_server_repeats_gets_into_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    make_pictures(tmp_path, 2)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRETSECRET")
    with serving(lambda _: fail(status, "bad: key sk-SECRETSECRET is over quota")) as server:
        flags = ["--base-url", server.url, "--no-check", "--patience", "1", "--json"]
        done = joycap("caption", tmp_path, *flags, code=code)
    told = joycap("report", tmp_path, "--json", "--html", tmp_path / "page.html")
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    said = [done.stdout, done.stderr, told.stdout, told.stderr]

    assert any(b"key *** is over quota" in data for data in files)
    assert not [data for data in files if b"SECRET" in data]
    assert not [text for text in said if "SECRET" in text]


@pytest.mark.parametrize(
    "flags",
    [
        ["--ext", ".png"],
        ["--ext", "./x"],
        ["--ext", ""],
        ["--concurrency", "²"],
        ["--shard", "¹/²"],
        ["--timeout", "0"],
        ["--again", "nonsense"],
        ["--base-url", "http://a,b"],
        ["--prompt", "bad \udcff"],
    ],
)
def test_flags_that_make_no_sense_are_wrong_usage(tmp_path: Path, flags: list[str]) -> None:
    make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, *flags, code=2)

    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*.txt")) == []


def test_a_journal_that_is_a_file_is_wrong_usage(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 1)
    (tmp_path / "file").write_text("")
    flags = ["--base-url", server.url, "--journal", str(tmp_path / "file")]

    assert "is a file" in joycap("caption", tmp_path, *flags, code=2).stderr


def test_serve_may_stand_before_the_folder(tmp_path: Path) -> None:
    from joycap_vllm.cli import with_default_model

    folder = str(tmp_path)

    assert with_default_model(["caption", "--serve", folder]) == [
        "caption", "--serve", "default", folder,
    ]  # fmt: skip


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    joycap("caption", tmp_path, "--base-url", server.url, "--dry-run")

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_picture_that_changes_between_two_requests_is_not_asked_about_as_another(
    tmp_path: Path, change: str
) -> None:
    (path,) = make_pictures(tmp_path, 1)

    def script(asked: Asked) -> Reaction:
        if asked.color != color_of(0):
            return truthful(asked)
        path.unlink()
        if change == "replaced":
            Image.new("RGB", (40, 30), (9, 8, 7)).save(path)
        return Reaction(reset=True)

    with serving(script) as server:
        summary = caption(tmp_path, server, "--wire", "bmp", "--no-check", code=1)

    assert summary["failed"] == 1
    assert [asked.color for asked in server.asked] == [color_of(0)]
    (record,) = records(tmp_path)
    assert ("changed" if change == "replaced" else "cannot be read") in record["why"]
    assert not sidecar(path).exists()
