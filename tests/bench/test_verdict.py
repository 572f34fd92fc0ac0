"""Who is the limit, as the measured numbers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.bench.measured import Measured, Span, measured
from joycap_vllm.bench.verdict import find_limit

IDLE = Span(opened=0, closed=10, cpu=2, loop=1, cores=4)
USUAL = replace(measured(64, IDLE, [], []), in_flight=64.0, running=60.0, waiting=1.0)


@pytest.mark.parametrize(
    ("figures", "limit"),
    [
        ({}, "engine"),
        ({"running": 32.0, "waiting": 31.0}, "engine"),
        ({"running": 10.0, "waiting": 30.0}, "engine"),
        ({"running": 12.0, "waiting": 0.0}, "front end"),
        ({"in_flight": 40.0, "running": 38.0}, "client"),
        ({"client_cores": 3.7}, "client"),
        ({"loop_share": 0.95}, "client"),
        ({"in_flight": 40.0, "full": 0.4}, "engine"),
        ({"running": None, "waiting": None}, "server"),
        ({"level": None, "in_flight": 30.0, "running": 29.0}, "engine"),
    ],
)
def test_where_more_in_flight_brings_no_more(figures: dict[str, float], limit: str) -> None:
    assert find_limit(replace(USUAL, **figures), flat=True).limit == limit  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "limit"),
    [
        ({}, "concurrency"),
        ({"running": None, "waiting": None}, "concurrency"),
        ({"running": 32.0, "waiting": 31.0}, "engine"),
        ({"loop_share": 0.95}, "client"),
    ],
)
def test_where_nothing_higher_was_tried(figures: dict[str, float], limit: str) -> None:
    assert find_limit(replace(USUAL, **figures), flat=False).limit == limit  # type: ignore[arg-type]


_SHARE = st.floats(0, 1)
_COUNT = st.none() | st.floats(0, 100)


@given(st.booleans(), _SHARE, _SHARE, st.floats(0, 8), _SHARE, _COUNT, _COUNT)
def test_every_verdict_has_a_reason_and_says_what_to_do(
    flat: bool,
    full: float,
    in_flight: float,
    cores: float,
    loop: float,
    running: float | None,
    waiting: float | None,
) -> None:
    figures: Measured = replace(
        USUAL, full=full, in_flight=64 * in_flight, client_cores=cores, loop_share=loop,
        running=running, waiting=waiting,
    )  # fmt: skip
    found = find_limit(figures, flat=flat)

    assert found.why
    assert found.advice
