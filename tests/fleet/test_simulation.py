"""How the limit fares with whole servers, in virtual time: nothing here waits."""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest

from fleet.crowd import Crowd, CrowdOptions
from fleet.simulation import (
    Clock,
    Model,
    Server,
    Simulation,
    busy,
    converged_at,
    longest_wait,
    waiting,
)
from joycap_vllm.fleet import Limit, LimitOptions
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.places import Ticket

SPREADS = {"alike": 0.0, "random": 0.5}  # sigma of the lognormal work of requests
BOTH = pytest.mark.parametrize("gauges", [True, False], ids=["gauges", "rate only"])
ALIKE_OR_NOT = pytest.mark.parametrize("sigma", SPREADS.values(), ids=SPREADS)


def simulated(*models: Model, seconds: float = 80.0, seed: int = 1) -> list[Server]:
    """The servers after so many virtual seconds."""
    simulation = Simulation(*models, seed=seed)
    simulation.run(seconds)
    return simulation.servers


def main_wait(server: Server, since: float) -> str:
    """What held it back most of the time."""
    waits = [w for w, s in zip(server.waits, server.books, strict=True) if s.at >= since]
    return Counter(waits).most_common(1)[0][0]


@ALIKE_OR_NOT
@pytest.mark.parametrize("slots", [1, 8, 64, 512])
def test_with_gauges_it_is_at_the_best_within_20_s_and_little_waits(
    slots: int, sigma: float
) -> None:
    for seed in range(2):
        (server,) = simulated(Model(slots=slots, sigma=sigma), seconds=60, seed=seed)

        assert converged_at(server) <= 20
        assert busy(server, 20) >= 0.99
        assert waiting(server, 20) <= 0.2
        assert longest_wait(server, 20) <= 0.2


@pytest.mark.parametrize("jitter", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("slots", [1, 8, 64, 512])
def test_by_rate_alone_it_is_at_the_best_within_20_s(slots: int, jitter: float) -> None:
    # Requests that are alike come back in bursts, which jitter blurs as real time does.
    (server,) = simulated(Model(slots=slots, gauges=False, jitter=jitter), seconds=120)

    assert converged_at(server) <= 20
    assert busy(server, 20) >= 0.95
    assert waiting(server, 40) <= 0.25
    assert slots > 1 or statistics.median(s.in_flight for s in server.books if s.at > 40) == 1


def test_by_rate_alone_a_long_answer_takes_few_rounds() -> None:
    (server,) = simulated(Model(slots=512, latency=2.0, gauges=False, jitter=0.02))

    assert converged_at(server) <= 20
    assert busy(server, 20) >= 0.95
    assert waiting(server, 30) <= 0.2


@pytest.mark.parametrize("slots", [1, 8, 64, 512])
def test_by_rate_alone_noise_costs_little(slots: int) -> None:
    servers = [
        simulated(Model(slots=slots, sigma=0.5, gauges=False), seconds=120, seed=seed)[0]
        for seed in range(8 if slots < 512 else 2)
    ]

    assert all(converged_at(server) <= 20 for server in servers)
    assert statistics.mean(busy(server, 20) for server in servers) >= 0.93
    assert statistics.median(waiting(server, 40) for server in servers) <= 0.2


@BOTH
@ALIKE_OR_NOT
def test_two_endpoints_of_unequal_speed_are_both_full(gauges: bool, sigma: float) -> None:
    fast = Model(slots=64, gauges=gauges, sigma=sigma, jitter=0.005)
    slow = Model(slots=8, gauges=gauges, sigma=sigma, jitter=0.005)
    runs = [simulated(fast, slow, seed=seed) for seed in range(16 if sigma and not gauges else 1)]

    assert all(converged_at(server) <= 20 for servers in runs for server in servers)
    assert statistics.mean(busy(first, 20) for first, _ in runs) >= 0.95
    assert statistics.mean(busy(second, 20) for _, second in runs) >= (0.93 if sigma else 0.95)


@BOTH
@ALIKE_OR_NOT
@pytest.mark.parametrize(("slots", "half"), [(64, 64), (256, 128)])
def test_an_engine_that_slows_with_its_batch_is_filled_all_the_same(
    gauges: bool, sigma: float, slots: int, half: int
) -> None:
    # At `half` requests each takes twice as long as one alone, yet all of them are faster still.
    model = Model(
        slots=slots, slope=1 / half, latency=1 / (1 + slots / half), gauges=gauges, sigma=sigma
    )
    (server,) = simulated(model)

    assert converged_at(server) <= 20
    assert busy(server, 20) >= 0.93
    assert waiting(server, 30) <= 0.25


@BOTH
@ALIKE_OR_NOT
@pytest.mark.parametrize("latency", [0.05, 20.0])
def test_short_and_long_answers_are_no_matter(gauges: bool, sigma: float, latency: float) -> None:
    model = Model(slots=64, latency=latency, gauges=gauges, sigma=sigma)
    span = max(latency, 1.0) if gauges else latency  # gauges come once a second at best
    (server,) = simulated(model, seconds=70 * span)

    assert converged_at(server, span=5 * span) <= 20 * span
    assert busy(server, 20 * span) >= 0.95
    assert waiting(server, 30 * span) <= 0.2


@BOTH
def test_a_starved_front_end_is_told_and_not_flooded(gauges: bool) -> None:
    (server,) = simulated(Model(slots=256, front=0.06, gauges=gauges), seconds=120)

    assert busy(server, 20) >= 0.93
    assert server.limit.value <= 32  # 16.7/s of 1 s each
    if gauges:
        assert main_wait(server, 30) == "front end"


@BOTH
def test_a_slow_client_is_told_and_the_limit_does_not_climb(gauges: bool) -> None:
    simulation = Simulation(Model(slots=64, gauges=gauges), most=20)
    simulation.run(60)
    (server,) = simulation.servers

    assert server.limit.wait == "client"
    assert server.limit.value <= (32 if gauges else 64)


def test_a_fixed_total_does_not_gather_at_the_slower_of_two() -> None:
    clock, taken, numbers = Clock(), list[Ticket](), itertools.count()
    dispatch = Dispatch(taken.append, total=88)

    def answered(_: Server, ticket: Ticket | None) -> None:
        if ticket is not None:
            dispatch.done(ticket, clock.now)
        while not dispatch.waiting:
            asked = dispatch.ask(f"image {next(numbers)}", clock.now)
            taken.extend([asked] * (asked.member is not None))
        while taken:
            asked = taken.pop()
            servers[asked.at.name].send(asked, asked.sent)

    models = {
        "fast": Model(slots=64, gauges=False),
        "slow": Model(slots=16, latency=2.0, gauges=False),
    }
    limit = LimitOptions(88, 88, 88)
    servers = {
        name: Server(clock, model, Limit(limit), random.Random(1), answered)
        for name, model in models.items()
    }
    for name, server in servers.items():
        dispatch.join(name, server.limit, 0.0)
    for second in range(10, 60, 10):
        clock.at(second, dispatch.reweigh)
    clock.at(0.0, answered, servers["fast"], None)
    clock.run(60)

    assert busy(servers["fast"], 42) >= 0.95
    assert busy(servers["slow"], 42) >= 0.95


def test_requests_of_others_do_not_starve_it() -> None:
    (polite,) = simulated(Model(slots=64, others=30))
    (flooded,) = simulated(Model(slots=64, others=200))

    assert busy(polite, 20) >= 0.99
    assert 34 <= polite.limit.value <= 50
    assert flooded.limit.value == 32


@BOTH
def test_a_server_that_refuses_is_kept_full_with_few_refusals(gauges: bool) -> None:
    (server,) = simulated(Model(slots=64, queue=80, gauges=gauges))

    assert busy(server, 20) >= 0.95
    assert server.refused <= 0.01 * server.answers


EVENTS: dict[str, Callable[[Server], None]] = {
    "restarts": lambda server: server.restart(5.0),
    "loses half of its slots": lambda server: server.change(slots=32),
    "gets twice the slots": lambda server: server.change(slots=128),
    "takes longer": lambda server: server.change(latency=1.5),
}


@BOTH
@ALIKE_OR_NOT
@pytest.mark.parametrize("event", EVENTS)
def test_a_server_that_changes_is_followed(gauges: bool, sigma: float, event: str) -> None:
    since = 85.0 if event == "restarts" else 90.0  # 20 s after it is back; 30 s after a change
    servers = []
    for seed in range(5 if sigma and not gauges else 1):
        model = Model(slots=64, gauges=gauges, sigma=sigma, jitter=0.005)
        simulation = Simulation(model, seed=seed)
        servers += simulation.servers
        simulation.clock.at(60.0, EVENTS[event], servers[-1])
        simulation.run(130)

    assert statistics.mean(busy(server, since) for server in servers) >= 0.93
    assert statistics.mean(waiting(server, since) for server in servers) <= 0.25


def test_a_first_guess_that_is_wrong_is_mended() -> None:
    for seats in (8, 512):
        simulation = Simulation(Model(slots=64), options=LimitOptions(seats=seats))
        simulation.run(60)
        (server,) = simulation.servers

        assert converged_at(server) <= 20
        assert waiting(server, 20) <= 0.2


def test_probes_are_rare_once_all_is_known() -> None:
    (server,) = simulated(Model(slots=64), seconds=200)

    assert sum(change.at > 100 for change in server.limit.changes) <= 20


def test_64_endpoints_that_join_leave_and_slow_down_are_all_busy() -> None:
    crowd = Crowd(CrowdOptions(rate=2_000.0, slots=(16, 64)))
    crowd.run()

    assert len(crowd.shares) >= 64
    assert crowd.least_busy >= 0.9
    assert crowd.waits <= 0.2
    assert crowd.answers >= 0.9 * 2_000 * 50
