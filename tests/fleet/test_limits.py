"""The limit of an endpoint: a pure state machine, so no I/O and no waiting here.

How it fares with whole servers is shown in `test_simulation.py`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.fleet import Limit, LimitOptions
from joycap_vllm.fleet.limits import State
from joycap_vllm.fleet.look import Look, Sent


def rounds(limit: Limit, count: int, *, rate: float = math.inf, start: float = 0.0) -> float:
    """So many rounds of a server with a latency of 1 s that answers at most `rate` a second; what
    is in flight comes back in one burst. Returns the time."""
    now = start
    flying = deque(limit.on_sent(now) for _ in range(limit.value))
    for _ in range(count):
        now += max(1.0, len(flying) / rate)
        for _ in range(len(flying)):
            limit.on_answer(now, flying.popleft(), len(flying) + 1)
            while len(flying) < limit.value:
                flying.append(limit.on_sent(now))
    return now


def test_it_starts_slowly_and_quadruples_while_the_rate_follows() -> None:
    limit = Limit()
    rounds(limit, 12)

    assert [change.new for change in limit.changes] == [16, 64, 256, 1024]


def test_it_starts_with_what_the_server_says_it_works_on() -> None:
    assert Limit(LimitOptions(seats=64)).value == 71
    assert Limit(LimitOptions(seats=4096, ceiling=512)).value == 512
    limit = Limit(LimitOptions(seats=64))
    rounds(limit, 10)

    assert limit.value > 71, "what it says is a first guess, no bound"


def test_it_does_not_grow_while_it_is_not_used_and_says_so() -> None:
    limit = Limit()
    for now in range(100):
        limit.on_answer(now + 0.9, limit.on_sent(now), 2)

    assert limit.value == 4
    assert limit.wait == "client"


def test_it_does_not_grow_where_more_is_no_faster() -> None:
    limit = Limit(LimitOptions(start=16))
    rounds(limit, 40, rate=16)

    assert limit.value <= 20
    assert limit.wait == "engine"
    assert limit.rate == 16


def test_a_refusal_cuts_at_once_and_once_an_episode() -> None:
    limit = Limit(LimitOptions(start=100))
    for _ in range(10):
        limit.on_full(5.0)

    assert limit.value == 80
    limit.on_full(7.5)
    assert limit.value == 64
    limit.on_full(10.0, pause=30.0)
    limit.on_full(39.0)
    assert limit.value == 51, "nothing new while it rests"


def test_a_queue_at_the_server_brings_it_down_to_what_runs() -> None:
    limit = Limit(LimitOptions(start=512))
    limit.on_load(1.0, running=128, waiting=384, in_flight=512)
    assert limit.value == 512, "one look may have met a burst"
    limit.on_load(2.0, running=128, waiting=384, in_flight=512)

    assert limit.value == 141
    assert "384 requests wait" in limit.changes[-1].why
    assert limit.wait == "engine"


def test_a_backlog_of_prompts_is_not_yet_a_full_engine() -> None:
    limit = Limit(LimitOptions(start=512))
    for second in range(1, 5):
        limit.on_load(
            float(second), running=100 * second, waiting=512 - 100 * second, in_flight=512
        )

    assert limit.value == 512


def test_a_short_queue_is_left_alone() -> None:
    limit = Limit(LimitOptions(start=128))
    for second in range(10):
        limit.on_load(float(second), running=118, waiting=10, in_flight=128)

    assert limit.value == 128


def test_a_neighbour_that_never_yields_leaves_it_half_of_the_engine() -> None:
    limit = Limit(LimitOptions(start=64))
    for second in range(60):
        limit.on_load(float(second), running=64, waiting=200 + limit.value, in_flight=limit.value)

    assert limit.value == 32


def test_requests_that_neither_run_nor_wait_are_at_the_front_end() -> None:
    limit = Limit(LimitOptions(start=64))
    limit.on_load(1.0, running=10, waiting=0, in_flight=64)
    limit.on_load(2.0, running=10, waiting=0, in_flight=64)

    assert limit.wait == "front end"


def test_a_server_that_is_back_gets_a_slow_start() -> None:
    limit = Limit()
    now = rounds(limit, 20)
    assert limit.value == 1024
    limit.on_back(now)

    assert limit.value == 4
    assert limit.state is State.SLOW_START
    assert limit.changes[-1].why == "it was down and is back"


def test_a_fixed_limit_stays() -> None:
    limit = Limit(LimitOptions(start=16, ceiling=16, floor=16))
    now = rounds(limit, 30, rate=4)
    limit.on_full(now)
    for second in range(5):
        limit.on_load(now + second, running=1, waiting=99, in_flight=16)
    limit.on_back(now + 9)

    assert limit.value == 16
    assert not limit.changes


EVENTS = st.one_of(
    st.tuples(st.just("sent"), st.integers(1, 600)),
    st.tuples(st.just("answer"), st.integers(0, 600), st.integers(1, 600)),
    st.tuples(st.just("full"), st.none() | st.floats(0, 1e4)),
    st.tuples(st.just("load"), st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 600)),
    st.just(("back",)),
)


@given(
    events=st.lists(st.tuples(st.floats(0, 100), EVENTS), max_size=60),
    floor=st.integers(1, 20),
    more=st.integers(0, 500),
    seats=st.none() | st.integers(1, 5000),
)
def test_it_stays_in_its_bounds_whatever_happens(
    events: list[tuple[float, tuple[Any, ...]]], floor: int, more: int, seats: int | None
) -> None:
    options = LimitOptions(start=4, floor=floor, ceiling=floor + more, seats=seats)
    limit = Limit(options)
    now = 0.0
    flying: list[Sent] = []
    for passed, (kind, *told) in events:
        now += passed
        if kind == "sent":
            flying += [limit.on_sent(now) for _ in range(*told)]
        elif kind == "answer":
            in_flight, times = told
            for sent in flying[:times]:
                limit.on_answer(now, sent, in_flight)
            del flying[:times]
        elif kind == "full":
            limit.on_full(now, *told)
        elif kind == "load":
            limit.on_load(now, *told)
        else:
            limit.on_back(now)
        assert floor <= limit.value <= options.ceiling
        assert math.isfinite(limit.rate)
        assert limit.rate >= 0
    assert all(change.why and change.old != change.new for change in limit.changes)


def test_it_costs_less_than_5_microseconds_a_request() -> None:
    limit = Limit(LimitOptions(start=256, floor=256, ceiling=256))
    count = 20_000
    began = time.process_time()
    for number in range(count):
        limit.on_answer(number * 0.001, limit.on_sent(number * 0.001 - 0.256), 256)

    assert (time.process_time() - began) / count < 5e-6


def test_gauges_with_room_let_it_double_before_a_round_of_answers() -> None:
    limit = Limit()
    for tick in range(4):
        limit.on_load(0.25 * tick, running=limit.value, waiting=0, in_flight=limit.value)

    assert limit.value == 16
    assert limit.is_starting


def test_gauges_of_a_limit_that_is_not_used_say_nothing_of_room() -> None:
    limit = Limit()
    for tick in range(8):
        limit.on_load(0.25 * tick, running=1, waiting=0, in_flight=1)

    assert limit.value == 4


def test_a_rate_is_the_same_however_answers_are_blurred_into_bursts() -> None:
    for blur in (0.0, 0.05, 0.3, 0.9):  # seconds, of the 1 s that each of 64 requests takes
        look = Look(since=1)
        flying, number = [Sent(-1.0 + blur * n / 64, -1) for n in range(64)], 0
        for _ in range(5):
            for place, sent in enumerate(flying):
                now, number = sent.at + 1.0, number + 1
                look.add(now, number, sent, 64)
                flying[place] = Sent(now, number)
        assert look.count > 200
        assert 62 <= look.rate <= 66


def test_who_was_sent_as_the_limit_rose_does_not_count() -> None:
    limit = Limit()
    first = [limit.on_sent(0.0) for _ in range(4)]
    limit.on_answer(1.0, first[0], 4)
    later = [limit.on_sent(1.0), limit.on_sent(1.0)]

    assert [sent.after for sent in first + later] == [-1, -1, -1, -1, 1, -1]
