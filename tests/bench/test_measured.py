"""A level's figures: what counts, and by how much."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.bench.measured import Answered, Sample, Span, measured
from joycap_vllm.fleet import Usage

SPAN = Span(opened=10.0, closed=20.0, cpu=5.0, loop=2.0, cores=2)


def answer(began: float, ended: float, *, glitch: bool = False, failed: str = "") -> Answered:
    return Answered(began, ended, glitch, failed, Usage(prompt=800, cached=200, completion=40))


def steady(level: int, latency: float, offset: float) -> list[Answered]:
    """So many requests in flight at all times, all of them sent at the same moments."""
    starts = [offset + round_ * latency for round_ in range(int(40 / latency))]
    return [answer(start, start + latency) for start in starts for _ in range(level)]


@given(st.integers(1, 64), st.floats(0.2, 5), st.floats(0, 5))
def test_a_steady_stream_has_its_true_rate_however_its_bursts_fall(
    level: int, latency: float, offset: float
) -> None:
    found = measured(level, SPAN, steady(level, latency, offset), [])

    assert found.answers_per_second == pytest.approx(level / latency)
    assert found.latency == pytest.approx(latency)


def test_an_answer_counts_by_the_part_of_its_time_that_was_measured() -> None:
    found = measured(4, SPAN, [answer(5, 15), answer(12, 14), answer(18, 22), answer(1, 9)], [])

    assert found.answers == pytest.approx(0.5 + 1 + 0.5)
    assert found.prompt_tokens_per_second == pytest.approx(2 * 800 / 10)
    assert found.completion_tokens_per_second == pytest.approx(2 * 40 / 10)
    assert found.cached_share == pytest.approx(0.25)
    assert (found.latency, found.latency_95) == (4, 4), (
        "only those that began while it was measured"
    )


def test_where_more_and_more_are_in_flight_only_answers_that_came_count() -> None:
    answered = [answer(5, 15), answer(12, 14), answer(18, 22), answer(1, 9)]

    assert measured(None, SPAN, answered, []).answers == 2


def test_glitches_are_answers_but_no_captions_and_failures_are_neither() -> None:
    answered = [
        answer(11, 12),
        answer(12, 13, glitch=True),
        answer(13, 14, failed="broken"),
        answer(14, 14, failed="refused"),
    ]
    found = measured(1, SPAN, answered, [])

    assert (found.answers, found.failed, found.why) == (2, 2, "broken")
    assert found.glitch_rate == 0.5
    assert found.captions_per_second == pytest.approx(found.answers_per_second / 2)


def test_samples_are_averaged_and_what_no_server_told_stays_unknown() -> None:
    told = measured(8, SPAN, [], [Sample(8, 6, 2), Sample(6, 4, 0, full=True)])
    silent = measured(8, SPAN, [], [Sample(8)])

    assert (told.in_flight, told.running, told.waiting, told.full) == (7, 5, 1, 0.5)
    assert (silent.running, silent.waiting) == (None, None)
    assert (told.client_cores, told.loop_share) == (0.5, 0.2)


def test_figures_of_nothing_at_all_are_zero_and_can_be_written_as_json() -> None:
    found = measured(None, SPAN, [], [])

    assert (found.answers_per_second, found.cached_share, found.latency) == (0, 0, 0)
    assert json.loads(json.dumps(found.as_json()))["level"] is None
