"""The search for the knee: where it ends, and that it finds the knee."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.bench.levels import is_rising, knee_of, next_level


def search(rate_of_slots: int, ceiling: int = 2048) -> dict[int, float]:
    """What is measured at a server whose rate grows up to so many requests at once."""
    rates: dict[int, float] = {}
    while (level := next_level(rates, ceiling)) is not None:
        assert level not in rates, "nothing is measured twice"
        rates[level] = float(min(level, rate_of_slots))
    return rates


@given(st.integers(1, 1500))
def test_the_knee_is_found_within_a_step_and_a_half_of_the_truth(slots: int) -> None:
    rates = search(slots)
    knee = knee_of(rates)

    assert knee is not None
    assert rates[knee] >= 0.95 * slots
    assert knee <= max(1.55 * slots, slots + 1)
    assert len(rates) <= 11


@pytest.mark.parametrize(
    ("slots", "measured"),
    [
        (1, [8, 16, 4, 2, 1]),
        (8, [8, 16, 4, 6]),
        (16, [8, 16, 32, 12]),
        (20, [8, 16, 32, 64, 24]),
    ],
)
def test_levels_are_measured_in_this_order(slots: int, measured: list[int]) -> None:
    assert list(search(slots)) == measured


def test_a_server_that_only_gets_faster_is_followed_to_the_ceiling() -> None:
    rates = search(10**6, ceiling=64)

    assert list(rates)[:4] == [8, 16, 32, 64]
    assert is_rising(rates)
    assert knee_of(rates) == 64


def test_a_ceiling_below_the_first_level_is_kept() -> None:
    assert max(search(100, ceiling=3)) == 3


def test_where_nothing_is_answered_there_is_no_knee() -> None:
    assert knee_of({8: 0.0, 16: 0.0}) is None
    assert knee_of({}) is None
    assert next_level({8: 0.0, 16: 0.0}) is None


@given(st.dictionaries(st.integers(1, 4096), st.floats(0, 1e6), min_size=1, max_size=12))
def test_whatever_was_measured_the_search_goes_to_a_new_level_or_ends(
    rates: dict[int, float],
) -> None:
    level = next_level(rates)

    assert level is None or level not in rates
    assert level is None or level >= 1
