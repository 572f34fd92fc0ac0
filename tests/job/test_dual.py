"""Several prompts for each image: one image, one endpoint, one upload made; and --dual's file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import orjson
import pytest

from .helping import LOOP, caption, color_of, jobs_requests, joycap, make_pictures, records, sidecar
from fault_server import Asked, FaultServer, Reaction, name_of, say, serving

TAGS = "1girl, long_hair, solo, Long Hair, ^_^"
PROSE = "This image shows a girl in a field."


def pair(asked: Asked) -> Reaction:
    return say(TAGS if "tag" in asked.prompt.lower() else PROSE)


def tags_loop(asked: Asked) -> Reaction:
    return say(LOOP) if "tag" in asked.prompt.lower() else say(PROSE)


def image_of(asked: Asked) -> str:
    url: str = asked.body["messages"][-1]["content"][0]["image_url"]["url"]
    return url


def test_dual_writes_tags_then_prose(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(pair) as server:
        summary = caption(tmp_path, server, "--dual", "--no-check")

    assert sidecar(path).read_text() == f"{TAGS}\n{PROSE}"
    assert (summary["images"], summary["tasks"], summary["requests"]) == (1, 2, 2)


def test_dual_split_writes_the_tags_to_the_plain_name(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(pair) as server:
        caption(tmp_path, server, "--dual-split", "--no-check")

    assert sidecar(path).read_text() == TAGS
    assert path.with_suffix(".straightforward.txt").read_text() == PROSE


def test_of_several_types_the_first_gets_the_plain_name(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    types = [f"--type={name}" for name in ("straightforward", "booru-like-tag-list", "descriptive")]
    with serving(pair) as server:
        caption(tmp_path, server, "--no-check", *types)

    assert sidecar(path).read_text() == PROSE
    assert path.with_suffix(".booru-like-tag-list.txt").read_text() == TAGS
    assert path.with_suffix(".descriptive.txt").read_text() == PROSE
    assert len(list(tmp_path.rglob("*.txt"))) == 3


def test_all_questions_about_an_image_go_to_one_endpoint_with_the_same_picture(
    tmp_path: Path,
) -> None:
    make_pictures(tmp_path, 24)
    with serving(pair) as one, serving(pair) as two:
        flags = ["--base-url", two.url, "--no-check", "--dual", "--concurrency", "8"]
        summary = caption(tmp_path, one, *flags)
        places, pictures = defaultdict(set), defaultdict(set)
        for server in (one, two):
            for asked in server.asked:
                places[asked.color].add(server.url)
                pictures[asked.color].add(image_of(asked))
        shares = len(one.asked), len(two.asked)

    assert summary["ok"] == 48
    assert all(shares), "both endpoints have work"
    assert {len(urls) for urls in places.values()} == {1}
    assert {len(urls) for urls in pictures.values()} == {1}


def test_dual_waits_for_both_and_a_later_run_completes_it(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(tags_loop) as server:
        first = caption(tmp_path, server, "--dual", "--no-check", "--retries", "1", code=1)
    assert not sidecar(path).exists()
    assert {r["prompt"]: r["outcome"] for r in records(tmp_path)} == {
        "booru-like-tag-list": "glitched", "straightforward": "ok",
    }  # fmt: skip

    with serving(pair) as mended:
        again = caption(tmp_path, mended, "--dual", "--no-check", "--again", "glitched")
        asked = len(mended.asked)

    assert (first["ok"], first["glitched"]) == (1, 1)
    assert (again["ok"], again["skipped"], asked) == (1, 1, 1)
    assert sidecar(path).read_text() == f"{TAGS}\n{PROSE}"


def test_dual_with_kept_glitches_writes_both_lines(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(tags_loop) as server:
        flags = ["--dual", "--no-check", "--retries", "0", "--on-glitch", "keep"]
        caption(tmp_path, server, *flags, code=1)

    assert sidecar(path).read_text().splitlines()[1] == PROSE


def test_a_dual_file_is_written_once_both_captions_came_from_different_runs(
    tmp_path: Path,
) -> None:
    make_pictures(tmp_path, 6)
    with serving(lambda a: say(LOOP) if a.color[0] % 2 else pair(a)) as server:
        flags = ["--dual", "--no-check", "--retries", "0"]
        caption(tmp_path, server, *flags, code=1)
        assert len(list(tmp_path.rglob("*.txt"))) == 3
    with serving(pair) as mended:
        caption(tmp_path, mended, *flags, "--again", "repetition")

    assert len(list(tmp_path.rglob("*.txt"))) == 6


def test_tags_and_prose_are_changed_on_their_way_out_and_the_journal_keeps_the_answers(
    tmp_path: Path,
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(pair) as server:
        flags = [
            "--underscores", "spaces", "--tag-separator", "; ", "--always-first", "solo,^_^",
            "--undesired", "1GIRL", "--dedupe-tags", "--strip-lead-in", "--trigger", "ohwx",
        ]  # fmt: skip
        caption(tmp_path, server, "--dual", "--no-check", *flags)

    assert sidecar(path).read_text() == "ohwx, solo; ^_^; long hair\nohwx, A girl in a field."
    assert {r["caption"] for r in records(tmp_path)} == {TAGS, PROSE}


def test_a_list_of_which_nothing_is_left_writes_no_file_and_is_told(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(lambda _: say("solo, 1girl")) as server:
        flags = ["--type", "booru-like-tag-list", "--undesired", "Solo, 1girl", "--no-check"]
        done = joycap("caption", tmp_path, "--base-url", server.url, *flags, code=1)

    assert "--undesired leaves none of the tags" in done.stderr
    assert "1 ok" in done.stderr
    assert not sidecar(path).exists()


def test_other_tag_settings_are_other_settings_and_a_job_of_before_them_goes_on(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 1)
    caption(tmp_path, server)
    saved = orjson.loads((tmp_path / ".joycap" / "job.json").read_bytes())["settings"]
    refused = joycap("caption", tmp_path, "--base-url", server.url, "--strip-lead-in", code=4)

    assert set(saved["sidecars"]) == {
        "extension", "out", "together", "prefix", "suffix", "trigger",
    }  # fmt: skip
    assert "strip_lead_in" in refused.stderr


def test_sidecars_that_are_gone_are_made_again_in_another_spelling_without_asking(
    tmp_path: Path,
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(pair) as server:
        flags = ["--no-check", "--type", "booru-like-tag-list"]
        caption(tmp_path, server, *flags)
        sidecar(path).unlink()
        caption(tmp_path, server, *flags, "--underscores", "spaces", "--accept-changes")
        asked = len(server.asked)

    assert sidecar(path).read_text() == "1girl, long hair, solo, Long Hair, ^_^"
    assert asked == 1


@pytest.mark.parametrize("separator", ["", "\n", "a\tb\n"])
def test_a_separator_that_is_no_text_is_wrong_usage(tmp_path: Path, separator: str) -> None:
    make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, "--tag-separator", separator, code=2)

    assert "--tag-separator" in done.stderr


def test_tag_flags_without_a_list_of_tags_are_said_to_change_nothing(
    tmp_path: Path, server: FaultServer
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, "--base-url", server.url, "--dedupe-tags")

    assert "flags for tags change nothing" in done.stderr
    assert sidecar(path).read_text() == name_of(color_of(0))
    assert len(jobs_requests(server)) == 1
