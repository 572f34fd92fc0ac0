"""`joycap lint --fix`: bad sidecars are captioned again, and nothing else is touched."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

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
from fault_server import Asked, FaultServer, Reaction, name_of, say, serving


def fix(
    folder: str | Path,
    server: FaultServer,
    *flags: str | Path,
    code: int = 0,
    cwd: Path | None = None,
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """The summary of `joycap lint --fix`, and all that was said."""
    asked = ["lint", folder, "--fix", "--json", "--base-url", server.url, *flags]
    done = joycap(*asked, code=code, cwd=cwd)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary, done


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}


@pytest.fixture
def pictures(tmp_path: Path, server: FaultServer) -> list[Path]:
    """Pictures of a job, captioned, but two of the sidecars are bad by now."""
    folder = tmp_path / "job"
    paths = make_pictures(folder, 6)
    caption(folder, server)
    sidecar(paths[1]).write_text(LOOP)
    sidecar(paths[2]).write_text(REFUSAL)
    server.asked.clear()
    return paths


def test_bad_sidecars_are_mended_and_good_ones_stay_as_they_are(
    tmp_path: Path, pictures: list[Path], server: FaultServer
) -> None:
    before = times(tmp_path)
    summary, done = fix(tmp_path / "job", server)
    after = times(tmp_path)

    assert (summary["captions"], summary["glitched"], summary["fixed"]) == (6, 2, 2)
    assert {asked.color for asked in jobs_requests(server)} == {color_of(1), color_of(2)}
    assert {path for path in before if before[path] != after[path]} == {
        sidecar(pictures[1]), sidecar(pictures[2]),
    }  # fmt: skip
    assert [sidecar(path).read_text() for path in pictures] == [
        name_of(color_of(number)) for number in range(6)
    ]
    assert "2 of them were changed by hand" in done.stderr
    assert len(done.stdout.splitlines()) == 6 + 1


@pytest.mark.parametrize("given", ["job", ".", "../job", "{}"])
def test_a_folder_is_the_same_however_it_is_spelled(
    tmp_path: Path, server: FaultServer, given: str
) -> None:
    folder = tmp_path / "job"
    for number, name in enumerate(["b.png", "a.bmp"]):
        make_pictures(tmp_path / str(number), number + 1)[number].rename(tmp_path / name)
    folder.mkdir()
    (tmp_path / "b.png").rename(folder / "a.png")
    caption(folder, server, "--no-check")
    (tmp_path / "a.bmp").rename(folder / "a.bmp")  # comes later, and sorts before
    caption(folder, server, "--no-check")
    (folder / "a.txt").write_text(LOOP)
    cwd = tmp_path if given == "job" else folder
    summary, done = fix(given.format(folder), server, "--no-check", cwd=cwd)

    assert summary["fixed"] == 1
    assert (folder / "a.txt").read_text() == name_of(color_of(0))
    assert (folder / "a.bmp.txt").read_text() == name_of(color_of(1))
    assert [record["key"] for record in records(folder)] == ["a.png", "a.bmp", "a.png"]
    assert "1 of them were changed by hand" in done.stderr


@pytest.mark.parametrize("given", ["out", "{}"])
def test_a_mirrored_folder_is_the_same_however_it_is_spelled(
    tmp_path: Path, server: FaultServer, given: str
) -> None:
    make_pictures(tmp_path / "in", 1)
    caption(tmp_path / "in", server, "--out", tmp_path / "out", "--no-check")
    bad = tmp_path / "out" / "p 0.txt"
    bad.write_text(LOOP)
    fix(given.format(tmp_path / "out"), server, "--no-check", cwd=tmp_path)

    assert bad.read_text() == name_of(color_of(0))
    assert {record["key"] for record in records(tmp_path / "out")} == {"p 0.png"}


def test_the_second_answer_has_a_new_seed_and_stands_in_the_journal(
    tmp_path: Path, pictures: list[Path], server: FaultServer
) -> None:
    fix(tmp_path / "job", server)
    first, second = (r for r in records(tmp_path / "job") if r["key"] == "with space/p 1.png")

    assert first["attempts"][0]["seed"] != second["attempts"][0]["seed"]
    assert (first["outcome"], second["outcome"]) == ("ok", "ok")


def test_what_is_bad_again_leaves_the_old_text(tmp_path: Path, pictures: list[Path]) -> None:
    def stubborn(asked: Asked) -> Reaction:
        return say(REFUSAL) if asked.color == color_of(1) else say(name_of(asked.color))

    with serving(stubborn) as server:
        summary, done = fix(tmp_path / "job", server, "--retries", "1", "--no-check", code=1)

    assert summary["fixed"] == 1
    assert sidecar(pictures[1]).read_text() == LOOP
    assert "1 of 2 bad captions are good now" in done.stderr


def test_a_sidecar_without_an_image_is_told_and_left(
    tmp_path: Path, pictures: list[Path], server: FaultServer
) -> None:
    pictures[1].unlink()
    summary, done = fix(tmp_path / "job", server, code=1)

    assert summary["fixed"] == 1
    assert "p 1.txt is left: there is no image" in done.stderr
    assert sidecar(pictures[1]).read_text() == LOOP


def test_a_part_of_a_job_is_mended_as_a_part_of_it(
    tmp_path: Path, pictures: list[Path], server: FaultServer
) -> None:
    fix(pictures[2].parent, server)
    fix(sidecar(pictures[1]), server)

    assert [path.name for path in tmp_path.rglob(".joycap")] == [".joycap"]
    assert joycap("lint", tmp_path).returncode == 0


def test_nothing_bad_asks_nobody(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("A plain picture.")
    done = joycap("lint", tmp_path, "--fix", "--base-url", "http://127.0.0.1:9/v1")

    assert "1 captions, 0 glitches" in done.stderr


def test_a_folder_without_a_job_is_asked_what_the_flags_say(
    tmp_path: Path, server: FaultServer
) -> None:
    good, bad = make_pictures(tmp_path, 2)
    good.with_suffix(".cap").write_text("My own words.")
    bad.with_suffix(".cap").write_text(LOOP)
    flags = ["--ext", "cap", "--type", "straightforward", "--words", "30", "--no-check"]
    summary, _ = fix(tmp_path, server, *flags)
    (asked,) = server.asked

    assert summary["fixed"] == 1
    assert "straightforward caption" in asked.prompt
    assert good.with_suffix(".cap").read_text() == "My own words."
    assert bad.with_suffix(".cap").read_text() == name_of(color_of(1))
    assert len(records(tmp_path)) == 1


def test_a_job_made_by_lint_skips_what_is_there_like_any_other(
    tmp_path: Path, server: FaultServer
) -> None:
    own, bad = make_pictures(tmp_path, 2)
    for path in (own, bad):
        sidecar(path).write_text(LOOP)
    with serving(lambda _: say(REFUSAL)) as stubborn:
        fix(tmp_path, stubborn, "--retries", "0", "--no-check", code=1)
    sidecar(own).write_text("My own words.")
    stored = orjson.loads((tmp_path / ".joycap" / "job.json").read_bytes())
    joycap("retry", tmp_path, "--base-url", server.url, "--no-check", code=None)

    assert stored["job"]["sidecars"]["existing"] == "skip"
    assert sidecar(own).read_text() == "My own words."


@pytest.mark.parametrize(
    ("existing", "before", "after"),
    [("append", "My words. {}", "My words. {}"), ("prepend", "{}. My words.", "{} My words.")],
)
def test_of_joined_texts_only_the_jobs_half_is_replaced(
    tmp_path: Path, server: FaultServer, existing: str, before: str, after: str
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("My words.")
    flags = ["--existing", existing, "--on-glitch", "keep", "--no-check", "--retries", "0"]
    with serving(lambda _: say(LOOP)) as looping:
        caption(tmp_path, looping, *flags, code=1)
    kept = sidecar(path).read_text()
    summary, _ = fix(tmp_path, server, "--no-check")

    assert kept == before.format(records(tmp_path)[0]["caption"])
    assert summary["fixed"] == 1
    assert sidecar(path).read_text() == after.format(name_of(color_of(0)))


def test_a_joined_text_that_is_not_the_jobs_any_more_is_left_and_said(
    tmp_path: Path, server: FaultServer
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("My words.")
    caption(tmp_path, server, "--existing", "append", "--no-check")
    sidecar(path).write_text("My words. " + LOOP)
    summary, done = fix(tmp_path, server, "--no-check", code=1)

    assert summary["fixed"] == 0
    assert sidecar(path).read_text() == "My words. " + LOOP
    assert f"{sidecar(path)} is left as it is" in done.stderr


def test_words_that_were_there_before_the_job_are_not_held_to_what_it_asked(
    tmp_path: Path,
) -> None:
    own, _, looped, done_by_job = make_pictures(tmp_path, 4)
    sidecar(own).write_text("A small dog sleeps on the green sofa of my aunt.")
    sidecar(looped).write_text(LOOP)
    flags = ["--type", "booru-like-tag-list", "--no-check"]
    with serving(lambda _: say("1girl, solo, plain")) as server:
        caption(tmp_path, server, *flags)
        sidecar(done_by_job).write_text("1girl, solo, plain")
        summary, done = fix(tmp_path, server, "--no-check")

    assert sidecar(own).read_text() == "A small dog sleeps on the green sofa of my aunt."
    assert (summary["glitched"], summary["fixed"]) == (1, 1)
    assert sidecar(looped).read_text() == "1girl, solo, plain"
    assert "1 were not written by this job" in done.stderr


@pytest.mark.parametrize("text", ["Маленькая собака спит на зелёном диване моей тёти."])
def test_a_users_own_manner_is_named_and_left(
    tmp_path: Path, server: FaultServer, text: str
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text(text)
    caption(tmp_path, server, "--no-check")
    summary, done = fix(tmp_path, server, "--no-check", code=1)

    assert (summary["glitched"], summary["fixed"]) == (1, 0)
    assert sidecar(path).read_text() == text
    assert f"{sidecar(path)} is left: its job did not write it" in done.stderr


def test_prose_of_ones_own_is_no_half_of_a_dual_sidecar(
    tmp_path: Path, server: FaultServer
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("A small dog sleeps on the green sofa of my aunt.")
    caption(tmp_path, server, "--dual", "--no-check")
    fix(tmp_path, server, "--no-check", code=1)

    assert sidecar(path).read_text() == "A small dog sleeps on the green sofa of my aunt."
    assert server.asked == []


def test_of_a_dual_sidecar_only_the_bad_line_is_asked_and_replaced(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)

    def dual(asked: Asked) -> Reaction:
        return say("picture, plain" if "tag" in asked.prompt else "A new picture.")

    with serving(dual) as server:
        caption(tmp_path, server, "--dual", "--no-check")
        sidecar(path).write_text(f"my, own, tags\n{LOOP}")
        summary, _ = fix(tmp_path, server, "--no-check")

    assert (summary["fixed"], len(server.asked)) == (1, 3)
    assert sidecar(path).read_text() == "my, own, tags\nA new picture."


def test_sidecars_of_another_folder_find_their_images(tmp_path: Path, server: FaultServer) -> None:
    paths = make_pictures(tmp_path / "in", 3)
    caption(tmp_path / "in", server, "--out", tmp_path / "out", "--trigger", "ohwx")
    bad = tmp_path / "out" / "with space" / "p 1.txt"
    bad.write_text("ohwx, " + LOOP)
    os.utime(bad)
    summary, _ = fix(tmp_path / "out", server)

    assert summary["fixed"] == 1
    assert bad.read_text() == f"ohwx, {name_of(color_of(1))}"
    assert not any(sidecar(path).exists() for path in paths)


def test_equal_stems_are_told_apart(tmp_path: Path, server: FaultServer) -> None:
    for number, name in enumerate(["a.bmp", "a.png"]):
        make_pictures(tmp_path / str(number), number + 1)[number].rename(tmp_path / name)
    caption(tmp_path, server, "--no-check")
    (tmp_path / "a.png.txt").write_text("")
    fix(tmp_path, server, "--no-check")

    assert (tmp_path / "a.png.txt").read_text() == name_of(color_of(1))
    assert len(server.asked) == 4


def test_a_job_of_an_earlier_version_is_not_guessed_at(
    tmp_path: Path, pictures: list[Path], server: FaultServer
) -> None:
    file = tmp_path / "job" / ".joycap" / "job.json"
    data = orjson.loads(file.read_bytes())
    del data["job"]
    file.write_bytes(orjson.dumps(data))
    done = joycap("lint", tmp_path / "job", "--fix", "--base-url", server.url, code=2)

    assert "joycap caption" in done.stderr
    assert server.asked == []


def test_tags_of_a_job_are_judged_as_tags(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(lambda _: say("1girl, solo, standing in the")) as server:
        caption(tmp_path, server, "--type", "danbooru-tag-list", "--no-check")

    assert joycap("lint", tmp_path).returncode == 0
    joycap("lint", sidecar(path), "--style", "prose", code=1)


def test_what_is_mended_before_trouble_comes_is_counted(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path, 60)
    for path in paths:
        sidecar(path).write_text(LOOP)

    def breaking(asked: Asked) -> Reaction:
        good = asked.color in {color_of(number) for number in range(5)}
        return say(name_of(asked.color) if good else REFUSAL)

    with serving(breaking) as server:
        flags = ["--no-check", "--retries", "0", "--concurrency", "2"]
        summary, done = fix(tmp_path, server, *flags, code=3)
        fix(tmp_path, server, *flags, "--max-glitch-rate", "off", code=1)

    mended = sum(sidecar(path).read_text() != LOOP for path in paths)
    assert summary["fixed"] > 0
    assert f"{summary['fixed']} of 60 bad captions are good now" in done.stderr
    assert mended == 5
    assert "--max-glitch-rate, now 0.3" in done.stderr
    assert "--again" not in done.stderr
