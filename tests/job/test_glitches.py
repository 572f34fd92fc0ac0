"""What a job does about glitches: it asks again by cause, and keeps the best of what came."""

from __future__ import annotations

from pathlib import Path

from .helping import LOOP, REFUSAL, caption, color_of, make_pictures, records, sidecar
from fault_server import Asked, Reaction, fail, name_of, say, serving, truthful


def test_glitches_are_asked_again_and_never_reach_a_sidecar(tmp_path: Path) -> None:
    def glitchy(asked: Asked) -> Reaction:
        kind = asked.color[0] % 4
        if asked.attempt <= kind:
            return (say(LOOP), say(REFUSAL), say("", "stop"), say("A cut", "length"))[kind]
        return truthful(asked)

    pictures = make_pictures(tmp_path, 16)
    with serving(glitchy) as server:
        summary = caption(tmp_path, server, "--no-check")
        seeds = {a.body["seed"] for a in server.asked if a.color == color_of(3)}

    assert (summary["ok"], summary["retried"], summary["requests"]) == (16, 12, 16 + 4 * 6)
    assert summary["glitches"] == {"empty": 8, "refusal": 4, "truncated": 12}
    assert len(seeds) == 4, "every attempt has a seed of its own"
    for number, path in enumerate(pictures):
        assert sidecar(path).read_text() == name_of(color_of(number))


def test_used_up_attempts_leave_no_sidecar_but_the_best_text_in_the_journal(
    tmp_path: Path,
) -> None:
    make_pictures(tmp_path, 2)
    with serving(lambda _: say(LOOP)) as server:
        summary = caption(tmp_path, server, "--no-check", "--retries", "2", code=1)
        again = caption(tmp_path, server, "--no-check", "--retries", "2", code=1)
        asked = len(server.asked)

    assert (summary["glitched"], summary["requests"], asked) == (2, 6, 6)
    assert again["glitched"] == 2
    assert list(tmp_path.rglob("*.txt")) == []
    assert {r["outcome"] for r in records(tmp_path)} == {"glitched"}
    assert all(r["caption"] and r["glitch"] == "repetition" for r in records(tmp_path))


def test_on_glitch_keep_hands_out_the_best_text(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(lambda _: say("A cut text", "length")) as server:
        flags = ["--no-check", "--retries", "1", "--on-glitch", "keep"]
        caption(tmp_path, server, *flags, code=1)

    assert sidecar(path).read_text() == "A cut text"
    assert "trimmed" not in records(tmp_path)[0]


def test_on_glitch_keep_trims_the_best_text_to_its_last_whole_sentence(tmp_path: Path) -> None:
    good = "A red car with a black roof stands on a wet road."
    (path,) = make_pictures(tmp_path, 1)
    with serving(lambda _: say(f"{good} A man in a", "length")) as server:
        caption(tmp_path, server, "--no-check", "--retries", "1", "--on-glitch", "keep", code=1)

    (record,) = records(tmp_path)
    assert sidecar(path).read_text() == record["caption"] == good
    assert (record["outcome"], record["glitch"], record["trimmed"]) == (
        "glitched",
        "truncated",
        True,
    )
    assert record["why"].endswith("; trimmed to 49 of 60 characters")


def test_a_loop_that_the_server_stopped_is_asked_again_with_a_penalty(tmp_path: Path) -> None:
    def stopping(asked: Asked) -> Reaction:
        if asked.attempt == 1:
            return say("a red car, a red car", "repetition")
        return truthful(asked)

    make_pictures(tmp_path, 1)
    with serving(stopping) as server:
        summary = caption(tmp_path, server, "--no-check")

    first, second = (asked.body for asked in server.asked)
    assert (summary["ok"], summary["glitches"]) == (1, {"repetition": 1})
    assert "frequency_penalty" not in first
    assert second["frequency_penalty"] > 0


def test_a_remedy_that_the_server_refuses_ends_with_the_best_of_what_came(tmp_path: Path) -> None:
    def plain(asked: Asked) -> Reaction:
        if "frequency_penalty" in asked.body:
            return fail(400, "frequency_penalty is not supported")
        return say(LOOP)

    make_pictures(tmp_path, 1)
    with serving(plain) as server:
        summary = caption(tmp_path, server, "--no-check", code=1)

    (record,) = records(tmp_path)
    assert (summary["glitched"], summary["failed"], summary["requests"]) == (1, 0, 2)
    assert (record["glitch"], bool(record["caption"])) == ("repetition", True)
    assert "not supported" in record["attempts"][1]["error"]
