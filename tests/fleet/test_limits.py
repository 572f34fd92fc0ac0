"""The limit of an endpoint: a pure state machine, so no I/O and no waiting here."""

from __future__ import annotations

from joycap_vllm.fleet import Limit, LimitOptions


def full_round(limit: Limit, now: float) -> None:
    """As many answers as the limit allows at once, with the whole limit in use."""
    count = limit.value
    limit.on_sent(now, count)
    for _ in range(count):
        limit.on_answer(now, 1.0, count)


def test_it_starts_slowly_and_doubles_while_all_of_it_is_used() -> None:
    limit = Limit()
    values = []
    for now in range(7):
        values.append(limit.value)
        full_round(limit, now)

    assert values == [8, 16, 32, 64, 128, 256, 512]
    assert limit.value == 512


def test_it_does_not_grow_while_it_is_not_used() -> None:
    limit = Limit()
    limit.on_sent(0.0, 3)
    for _ in range(100):
        limit.on_answer(1.0, 1.0, 3)

    assert limit.value == 8


def test_a_full_server_ends_the_slow_start_and_cuts_once_an_episode() -> None:
    limit = Limit(LimitOptions(start=100))
    for _ in range(10):
        limit.on_full(5.0)

    assert limit.value == 80
    full_round(limit, 5.5)
    assert limit.value == 80, "no growth while things calm down"
    full_round(limit, 8.0)
    assert limit.value == 84, "no more doubling"


def test_a_queue_at_the_server_brings_it_down_to_what_runs() -> None:
    limit = Limit(LimitOptions(start=512))
    limit.on_load(1.0, running=128, waiting=380, in_flight=508)

    assert limit.value == 141
    assert "380 requests wait" in limit.changes[-1].why


def test_a_short_queue_is_left_alone() -> None:
    limit = Limit(LimitOptions(start=128))
    limit.on_load(1.0, running=120, waiting=8, in_flight=128)

    assert limit.value == 128


def test_a_fixed_limit_stays() -> None:
    limit = Limit(LimitOptions(start=16, ceiling=16, floor=16))
    full_round(limit, 1.0)
    limit.on_full(2.0)
    limit.on_load(9.0, running=1, waiting=99, in_flight=16)

    assert limit.value == 16


def test_it_never_leaves_its_bounds_and_keeps_every_change_with_its_reason() -> None:
    limit = Limit(LimitOptions(start=2, floor=1, ceiling=4))
    for now in range(0, 40, 4):
        limit.on_full(now)
    assert limit.value == 1
    for now in range(50, 60):
        full_round(limit, now)

    assert limit.value == 4
    assert all(change.why and change.old != change.new for change in limit.changes)
