"""What a job says of its own speed and end."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.cli.wording import done, line, rows
from joycap_vllm.fleet import Usage
from joycap_vllm.job import Figures, Problem, Progress
from joycap_vllm.job.figures import summed
from joycap_vllm.job.problems import Problems


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outcome(kind: str = "ok", *, ms: float = 500.0, glitches: int = 0) -> Outcome:
    bad = [Attempt("refusal", "stop", 1, 0.6, "http://a/v1", ms) for _ in range(glitches)]
    good = Attempt(None, "stop", 1, 0.6, "http://a/v1", ms)
    return Outcome(
        kind,  # type: ignore[arg-type]
        "A dog.",
        attempts=(*bad, good),
        usage=Usage(800, 600, 40),
    )


def job(total: int | None = None) -> tuple[Progress, Clock]:
    clock = Clock()
    progress = Progress(clock)
    progress.total = total
    progress.start()
    return progress, clock


def work(progress: Progress, clock: Clock, seconds: float, per_second: float) -> None:
    for _ in range(round(seconds * per_second)):
        clock.now += 1 / per_second
        progress.add(outcome(ms=min(500.0, 1000 / per_second)))
        progress.add_image()


@pytest.mark.parametrize("per_second", [0.02, 0.1, 1.0, 7.0, 300.0])
def test_what_comes_evenly_has_one_rate(per_second: float) -> None:
    progress, clock = job(100_000)
    work(progress, clock, 12 / per_second if per_second < 1 else 130, per_second)

    assert progress.rate == pytest.approx(per_second, rel=0.02)
    assert progress.figures().images_per_second == pytest.approx(per_second, rel=0.02, abs=1e-3)
    assert progress.figures().tokens_per_second == pytest.approx(40 * per_second, rel=0.02, abs=0.1)


@pytest.mark.parametrize("per_second", [0.1, 2.0, 40.0])
def test_under_an_even_rate_the_time_left_only_falls(per_second: float) -> None:
    progress, clock = job(4000)
    work(progress, clock, max(20 / per_second, 4), per_second)
    left = []
    for _ in range(60):
        work(progress, clock, 2 / per_second, per_second)
        assert progress.eta is not None
        left.append(progress.eta)

    assert all(after < before + 1e-6 for before, after in itertools.pairwise(left))


def test_answers_in_bursts_have_the_rate_of_their_mean() -> None:
    progress, clock = job(10_000)
    for _ in range(30):
        clock.now += 5
        for _ in range(64):
            progress.add(outcome(ms=5000))

    assert progress.rate == pytest.approx(64 / 5, rel=0.02)


def test_when_nothing_comes_the_rate_falls_and_the_time_left_says_so() -> None:
    progress, clock = job(100_000)
    work(progress, clock, 90, 20)
    rates, before = [], progress.eta
    for _ in range(20):
        clock.now += 5
        rates.append(progress.rate)
    figures = progress.figures()

    assert all(after < earlier for earlier, after in itertools.pairwise(rates))
    assert rates[-1] < 2
    assert before is not None
    assert figures.eta_seconds is None, "nobody can tell"
    assert figures.quiet_seconds == pytest.approx(100)
    assert "nothing came for 0:01:40" in line(figures)


def test_an_answer_that_does_not_come_at_all_is_told_of_too() -> None:
    progress, clock = job(10)
    clock.now += 9
    before = progress.figures().quiet_seconds
    clock.now += 9

    assert (before, progress.figures().quiet_seconds) == (0, 18)


def test_after_a_standstill_the_rate_is_right_again_within_a_minute() -> None:
    progress, clock = job(1_000_000)
    work(progress, clock, 90, 20)
    clock.now += 600
    work(progress, clock, 61, 20)

    assert progress.rate == pytest.approx(20, rel=0.05)
    assert progress.figures().quiet_seconds == 0


def test_what_was_done_before_never_counts_into_the_rate() -> None:
    progress, clock = job(5_000_000)
    progress.standing = 4_900_000
    clock.now += 1
    for _ in range(49):
        progress.add_earlier("ok", 100_000, images=100_000)
    assert (progress.rate, progress.eta) == (0.0, None)
    work(progress, clock, 20, 10)
    figures = progress.figures()

    assert figures.tasks_per_second == pytest.approx(10, rel=0.05)
    assert figures.images_per_second == pytest.approx(10, rel=0.05)
    assert figures.eta_seconds == pytest.approx((100_000 - 200) / 10, rel=0.05)
    assert (figures.skipped, figures.images) == (4_900_000, 4_900_200)


def test_what_stands_but_was_not_met_yet_is_no_part_of_the_time_left() -> None:
    progress, clock = job(1000)
    progress.standing = 900
    work(progress, clock, 10, 5)

    assert progress.eta == pytest.approx(50 / 5, rel=0.05)


def test_a_long_search_before_the_first_answer_does_not_slow_the_rate() -> None:
    progress, clock = job(1000)
    clock.now += 300
    work(progress, clock, 10, 10)

    assert progress.rate == pytest.approx(10, rel=0.05)


@given(
    total=st.none() | st.integers(0, 10_000_000),
    counting=st.booleans(),
    ok=st.integers(0, 10_000_000),
    failed=st.integers(0, 1000),
)
def test_never_more_than_the_whole_is_done(
    total: int | None, counting: bool, ok: int, failed: int
) -> None:
    progress, _ = job(total)
    progress.counting = counting
    progress.add_earlier("ok", ok)
    progress.add_earlier("failed", failed)
    figures = progress.figures()
    shown = [
        int(part.replace(",", "")) for part in done(figures).replace("about ", "").split(" of ")
    ]

    assert shown[0] == ok + failed == figures.done
    assert shown[0] <= shown[-1]
    assert figures.share is None or 0 <= figures.share <= (0.999 if counting else 1)
    assert figures.total is None or figures.done <= figures.total
    assert progress.eta is None or progress.eta >= 0


def test_an_estimate_is_shown_as_one() -> None:
    progress, _ = job(4_987_332)
    progress.counting = True
    progress.add_earlier("ok", 12_345)

    assert done(progress.figures()) == "12,345 of about 5,000,000"
    assert progress.figures().share == pytest.approx(0.00247, rel=0.01)


def test_an_endless_job_takes_no_more_memory() -> None:
    progress, clock = job(None)
    for number in range(20_000):
        clock.now += random.random()
        progress.add(outcome())
        progress.problems.add(Problem(f"{number}.png", "failed", f"HTTP 400: {number} is bad"))

    assert len(progress._pace._moments) < 70
    assert len(list(progress.problems)) == 1


def test_problems_are_shown_by_reason_the_worst_first() -> None:
    problems, told = Problems(), list[Problem]()
    problems.on_problem = told.append
    for number in range(5):
        problems.add(Problem(f"{number}.png", "glitched", f"says {number}", "refusal"))
    problems.add(Problem("bad.png", "failed", "the file is empty (0 bytes)"))
    for number in range(300):
        problems.add(Problem("x.png", "unwritten", "x" * (number % 250)))
    shown, others = problems.worst(3)

    assert [(str(problem), count) for problem, count in shown[:2]] == [
        ("bad.png: failed: the file is empty (0 bytes)", 1),
        ("0.png: refusal: says 0", 5),
    ]
    assert sum(count for _, count in shown) + others == 306 == len(told)


def test_figures_come_back_as_they_were_and_nonsense_is_left_out() -> None:
    progress, clock = job(100)
    work(progress, clock, 10, 3)
    progress.queue = (3, 1)
    progress.add(outcome("glitched", glitches=3))
    figures = progress.figures()
    odd = {"done": "many", "total": -1, "eta_seconds": float("nan"), "glitches": [], "new": 1}

    assert Figures.of_json(figures.as_json()) == figures
    assert Figures.of_json(odd) == Figures()
    assert Figures.of_json({"done": 9, "total": 3}).total == 9


def test_what_limits_a_run_and_what_it_sent_twice_stand_where_users_look() -> None:
    progress, clock = job(100)
    work(progress, clock, 10, 3)
    progress.capacity = progress.in_flight = 8
    assert "limit" not in line(progress.figures())
    progress.limit, progress.hedged = "front end", 2
    figures = progress.figures()

    assert "8 of 8 in flight, limit: front end" in line(figures)
    assert "2 late requests sent twice" in line(figures)
    assert dict(rows(figures))["retried"] == "0; 2 late requests sent twice"
    assert Figures.of_json(figures.as_json()) == figures
    assert (figures.at_rest().limit, figures.at_rest().hedged) == ("", 2)
    assert (summed([figures]).limit, summed([figures, figures]).hedged) == ("front end", 4)


def test_runs_that_share_a_job_add_up_and_the_slowest_ends_last() -> None:
    fast = Figures(done=50, total=100, tasks_per_second=10, eta_seconds=5, glitches={"empty": 1})
    slow = Figures(done=10, total=100, tasks_per_second=1, eta_seconds=90, glitches={"empty": 2})
    through = Figures(done=100, total=100)
    together = summed([fast, slow, through])

    assert (together.done, together.total, together.eta_seconds) == (160, 300, 90)
    assert (together.tasks_per_second, together.glitches) == (11, {"empty": 3})
    assert summed([fast, Figures(done=1, total=9)]).eta_seconds is None
