"""The simulated cluster: what failures cost a node, and what that makes of a job on many."""

from __future__ import annotations

import pytest

from bench_cluster import HOUR, RESERVED, check, line_bytes, simulate
from cluster_node import Card, Cost, Failure, Node, cost_of

CARD = Card("small", 16, 4.0)
DEATH, CLIENT, STORE, NODE = RESERVED


def test_an_engine_that_dies_loses_what_it_had_in_flight_and_an_eighth_of_the_node() -> None:
    cost = cost_of(CARD, DEATH)

    assert CARD.slots <= cost.lost <= 1.5 * CARD.slots
    assert DEATH.gone / 8 <= cost.seconds <= DEATH.gone / 4


def test_a_client_that_dies_loses_all_that_is_in_flight_and_nothing_that_was_answered() -> None:
    node = Node(CARD)
    node.run(200)
    before = len(node.answers), sum(node.answers)
    flying = sum(server.in_flight for server in node.servers)
    node.fail(CLIENT)

    assert (len(node.answers), sum(node.answers)) == before
    assert node.lost == flying >= 8 * CARD.slots


def test_a_store_out_of_reach_loses_time_only() -> None:
    cost = cost_of(CARD, STORE)

    assert cost.lost == 0
    assert 0 < cost.seconds <= STORE.gone + 5


@pytest.mark.timeout(180)
def test_costs_foretell_what_a_node_does_request_by_request() -> None:
    costs = {failure: cost_of(CARD, failure) for failure in (DEATH, CLIENT, STORE)}
    happened, made, foretold = check(CARD, costs, hours=0.5)

    assert happened >= 2
    assert abs(made / foretold - 1) < 0.03


def test_a_fleet_without_failures_takes_its_work_over_its_rate() -> None:
    never = Failure("never", 1e12, 0.0, "")
    fleet = simulate(CARD, {never: Cost(1.0, 1.0)}, work=32 * HOUR, nodes=3)

    assert list(fleet.hours) == [1.0, 1.0, 1.0]
    assert (fleet.captions, fleet.lost, fleet.failures.total()) == (96 * HOUR, 0.0, 0)


def test_failures_come_at_their_rate_and_cost_what_they_cost() -> None:
    often = Failure("often", 1.0, 0.0, "")
    fleet = simulate(CARD, {often: Cost(5.0, 36.0)}, work=1e18, until=100 * HOUR, nodes=100)
    count = fleet.failures["often"]

    assert abs(count / 10_000 - 1) < 0.05
    assert fleet.lost == 5 * count
    assert abs(fleet.captions / (100 * 100 * HOUR * 32 * 0.99) - 1) < 1e-3


def test_a_record_takes_as_many_bytes_as_the_real_journal_writes() -> None:
    assert 1_200 < line_bytes(500) < 2_500
