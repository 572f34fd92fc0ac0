"""Which endpoints an image prefers: pure, so no I/O here."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.fleet.routing import DEPTH, SLOTS, Routing, slot_of, weights_for

NAMES = st.lists(st.text(max_size=12), unique=True, min_size=2, max_size=9)


def routing_of(names: list[str]) -> Routing:
    routing = Routing()
    routing.set_weights(dict.fromkeys(names, 1.0))
    return routing


def homes(routing: Routing) -> list[str]:
    return [routing.order(slot)[0] for slot in range(SLOTS)]


@settings(max_examples=25, deadline=None)
@given(names=NAMES, data=st.data())
def test_who_leaves_moves_only_its_own_images_and_who_joins_takes_only_what_it_keeps(
    names: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(names))
    routing = routing_of(names)
    before = homes(routing)
    routing.set_weights({name: 1.0 for name in names if name != gone})
    without = homes(routing)
    routing.set_weights(dict.fromkeys(names, 1.0))

    assert all(a == b for a, b in zip(before, without, strict=True) if a != gone)
    assert homes(routing) == before


@settings(max_examples=25, deadline=None)
@given(names=NAMES, key=st.text())
def test_an_order_names_each_endpoint_once_and_depends_on_no_sequence(
    names: list[str], key: str
) -> None:
    order = routing_of(names).order(slot_of(key))

    assert len(order) == len(set(order)) == min(DEPTH, len(names))
    assert order == routing_of(names[::-1]).order(slot_of(key))


def test_homes_are_shared_by_weight() -> None:
    routing = Routing()
    routing.set_weights({"slow": 1.0, "fast": 3.0})

    assert 0.71 < Counter(homes(routing))["fast"] / SLOTS < 0.79


def test_a_key_that_is_no_unicode_has_a_slot_too() -> None:
    assert 0 <= slot_of("caf\udce9.jpg") < SLOTS


@given(rates=st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), max_size=9))
def test_weights_settle_at_once_and_stay_while_rates_wobble(rates: dict[str, float]) -> None:
    weights = weights_for(rates, {})
    again = weights_for({name: rate * 1.02 for name, rate in rates.items()}, weights)

    assert again == weights
    assert all(1 / 17 < weight < 17 for weight in weights.values())


def test_a_rate_moves_the_weight_once_it_is_far_from_it() -> None:
    old = {"a": 1.0, "b": 1.0, "c": 1.0, "new": 1.0}

    assert weights_for({"a": 10.0, "b": 12.0, "c": 9.0, "new": 0.0}, old) == old
    assert weights_for({"a": 10.0, "b": 41.0, "c": 10.0, "new": 0.0}, old) == old | {"b": 4.0}
