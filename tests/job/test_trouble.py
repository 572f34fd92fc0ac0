"""A broken server is told from bad luck, early and without false alarms."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.job.trouble import USUAL_MOST, Trouble

from .helping import LOOP, REFUSAL, caption, jobs_requests, joycap, make_pictures, records
from fault_server import Asked, Reaction, fail, name_of, say, serving, truthful

ONE = "http://one/v1"
TWO = "http://two/v1"
runs = st.lists(st.booleans(), max_size=300)


def first_alarm(bad: list[bool], most: float = USUAL_MOST) -> int | None:
    """After how many answers, each of a task of its own, there is trouble."""
    trouble = Trouble(most)
    for number, is_bad in enumerate(bad, 1):
        if trouble.note(number, ONE, "refusal" if is_bad else None, "no"):
            return number
    return None


def tail(n: int, p: float, k: int) -> float:
    """The chance of k or more of n."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def test_ten_million_answers_at_the_usual_rate_raise_no_false_alarm() -> None:
    filling = sum(tail(n, 0.03, math.floor(n * USUAL_MOST) + 1) for n in range(40, 200))
    full = 10_000_000 * tail(200, 0.03, math.floor(200 * USUAL_MOST) + 1)

    assert filling + full < 1e-9


def test_a_long_run_at_the_usual_rate_goes_through() -> None:
    draw = random.Random(7)

    assert first_alarm([draw.random() < 0.03 for _ in range(20_000)]) is None


def test_a_server_that_gives_nothing_else_is_found_at_the_fortieth_task() -> None:
    assert first_alarm([True] * 100) == 40


def test_a_server_with_every_second_answer_bad_is_found_soon() -> None:
    draw = random.Random(7)
    found = [first_alarm([draw.random() < 0.5 for _ in range(400)]) or 999 for _ in range(200)]

    assert max(found) < 100


def test_a_server_that_breaks_after_a_long_good_time_is_found_within_the_window() -> None:
    assert (first_alarm([False] * 5000 + [True] * 100) or 0) == 5061


def test_stubborn_pictures_count_once_however_often_they_are_asked() -> None:
    trouble = Trouble()
    said = [
        trouble.note(number, ONE, "refusal" if number % 10 == 0 else None)
        for number in range(2000)
        for _ in range(5)
    ]

    assert not any(said)


def test_a_task_that_is_well_in_the_end_still_had_a_bad_answer() -> None:
    trouble = Trouble()
    said = [trouble.note(n, ONE, kind) for n in range(40) for kind in ("empty", None)]

    assert any(said)


@given(runs, runs)
def test_more_bad_answers_never_hide_trouble(bad: list[bool], more: list[bool]) -> None:
    worse = [a or b for a, b in zip(bad, [*more, *[False] * len(bad)], strict=False)]
    before, after = first_alarm(bad), first_alarm(worse)

    assert before is None or (after is not None and after <= before)


@given(runs, st.floats(0.01, 0.99), st.floats(0.01, 1))
def test_a_higher_rate_never_finds_trouble_earlier(
    bad: list[bool], low: float, high: float
) -> None:
    low, high = sorted((low, high))
    strict, lenient = first_alarm(bad, low), first_alarm(bad, high)

    assert lenient is None or (strict is not None and strict <= lenient)


@given(st.lists(st.booleans(), max_size=39))
def test_a_small_job_never_stops(bad: list[bool]) -> None:
    assert first_alarm(bad, 0.01) is None


def test_a_rate_of_1_turns_it_off() -> None:
    assert first_alarm([True] * 1000, 1.0) is None


def test_one_bad_endpoint_of_many_is_found_and_named() -> None:
    trouble, said = Trouble(), None
    for number in range(1000):
        endpoint = f"http://gpu{number % 8}/v1"
        kind = "repetition" if endpoint == "http://gpu3/v1" else None
        said = said or trouble.note(number, endpoint, kind, "said it all again")

    assert said is not None
    assert "tasks at http://gpu3/v1 (100%)" in said
    assert "leave out http://gpu3/v1, or mend it" in said
    assert "All is well at http://gpu0/v1, http://gpu1/v1, http://gpu2/v1, http://gpu4/v1" in said


def test_where_all_endpoints_are_bad_none_is_blamed() -> None:
    trouble, said = Trouble(), None
    for number in range(100):
        said = said or trouble.note(number, (ONE, TWO)[number % 2], "empty", "nothing")

    assert said is not None
    assert "All is well" not in said


def test_the_most_frequent_kind_is_told_with_an_example() -> None:
    trouble, said = Trouble(), None
    for number in range(100):
        kind, why = ("empty", "nothing") if number % 4 == 0 else ("refusal", "says sorry " * 50)
        said = said or trouble.note(number, ONE, kind, why)

    assert said is not None
    assert said.startswith("40 of the last 40 tasks (100%)")
    assert "30 of them refusal (such as: says sorry" in said
    assert len(said) < 400


@pytest.mark.parametrize("retries", ["0", "4"])
def test_a_broken_server_stops_the_job_before_it_costs_much(tmp_path: Path, retries: str) -> None:
    make_pictures(tmp_path, 120)
    with serving(lambda _: say(REFUSAL)) as broken:
        flags = ["--base-url", broken.url, "--no-check", "--retries", retries, "--json"]
        stopped = joycap("caption", tmp_path, *flags, "--concurrency", "4", code=3)
        requests = len(broken.asked)

    assert "got an answer that is no caption" in stopped.stderr
    assert "refusal (such as: " in stopped.stderr
    assert "--again glitched" in stopped.stderr
    assert f"joycap retry {tmp_path} --only glitched" in stopped.stderr
    assert requests <= 40 * (int(retries) + 1) + 40
    assert stopped.stdout.startswith('{"images":')
    assert "captions: 0 ok" in stopped.stderr, "the summary is there in words, too"


def test_what_was_kept_in_the_trouble_is_asked_again_once_it_is_over(tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)
    with serving(lambda _: say(LOOP)) as broken:
        flags = ["--base-url", broken.url, "--no-check", "--retries", "0"]
        joycap("caption", tmp_path, *flags, code=3)
    kept = len(records(tmp_path))
    with serving() as mended:
        plain = caption(tmp_path, mended, code=1)
        again = caption(tmp_path, mended, "--again", "glitched")

    assert 40 <= kept <= 60
    assert (plain["ok"], plain["glitched"]) == (60 - kept, kept)
    assert (again["ok"], again["skipped"]) == (kept, 60 - kept)


def test_a_server_that_refuses_requests_stops_the_job(tmp_path: Path) -> None:
    make_pictures(tmp_path, 80)
    with serving(lambda _: fail(400, "unknown field")) as broken:
        flags = ["--base-url", broken.url, "--no-check", "--concurrency", "4"]
        stopped = joycap("caption", tmp_path, *flags, code=3)

    assert "failed (such as: the server refuses the request" in stopped.stderr


def test_unreadable_pictures_never_look_like_a_broken_server(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    make_pictures(tmp_path / "good", 4)
    with serving() as server:
        summary = caption(tmp_path, server, code=1)
        asked = len(jobs_requests(server))

    assert (summary["ok"], summary["failed"], asked) == (4, 100, 4)


def test_the_rate_is_a_flag_and_can_be_turned_off(tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)

    def one_in_five(asked: Asked) -> Reaction:
        return say(REFUSAL) if asked.color[0] % 5 == 0 else say(name_of(asked.color))

    with serving(one_in_five) as server:
        flags = ["--no-check", "--retries", "0", "--concurrency", "2"]
        line = ["caption", str(tmp_path), "--base-url", server.url, *flags]
        strict = joycap(*line, "--max-glitch-rate", "0.1", code=3)
        off = caption(tmp_path, server, *flags, "--max-glitch-rate", "off", code=1)

    assert "--max-glitch-rate, now 0.1" in strict.stderr
    assert (off["ok"] + off["skipped"], off["glitched"]) == (48, 12)


def test_the_one_bad_endpoint_of_a_fleet_is_named_to_the_user(tmp_path: Path) -> None:
    make_pictures(tmp_path, 160)
    with serving(truthful) as good, serving(lambda _: say("")) as bad:
        urls = ["--base-url", good.url, "--base-url", bad.url]
        flags = ["--no-check", "--retries", "0", "--concurrency", "4"]
        stopped = joycap("caption", tmp_path, *urls, *flags, code=3)

    assert f"leave out {bad.url}, or mend it" in stopped.stderr


@pytest.mark.parametrize("rate", ["0", "1.5", "nan", "half", "-1"])
def test_a_rate_that_makes_no_sense_is_wrong_usage(tmp_path: Path, rate: str) -> None:
    make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, f"--max-glitch-rate={rate}", code=2)

    assert "--max-glitch-rate" in done.stderr
