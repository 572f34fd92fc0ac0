"""How the limits and the dispatch fare with simulated servers, and what they cost.

`scripts/bench fleet [--quick]`: everything is in virtual time, so the figures are the same on any
machine, but for the costs. Prints two Markdown tables: single servers (for one limit alone), and 64
endpoints with 50,000 images/s that join, leave and slow down (through the real dispatch).
"""

from __future__ import annotations

import argparse
import statistics
import time

from fleet.crowd import Crowd, CrowdOptions
from fleet.simulation import Model, Simulation, busy, converged_at, waiting

from joycap_vllm.fleet import Limit, LimitOptions

SCENARIOS = {
    **{
        f"{slots} slots, {name}": Model(slots=slots, sigma=sigma)
        for slots in (1, 8, 64, 512)
        for name, sigma in (("all alike", 0.0), ("random", 0.5))
    },
    "256 slots, half as fast at 128": Model(slots=256, sigma=0.5, slope=1 / 128, latency=1 / 3),
    "64 slots of 0.05 s": Model(slots=64, latency=0.05, sigma=0.5),
    "64 slots of 20 s": Model(slots=64, latency=20.0, sigma=0.5),
    "64 slots, 30 others": Model(slots=64, sigma=0.5, others=30),
    "front end of 60 ms": Model(slots=256, sigma=0.5, front=0.06),
    "64 slots, refuses from 80 on": Model(slots=64, sigma=0.5, queue=80),
}


def row_of(name: str, model: Model, seeds: int) -> str:
    """A row of the first table: worst start, mean share of the best, mean share that waits."""
    cells = [name]
    for gauges in (True, False):
        second = model.latency if model.latency > 1 or not gauges else 1.0
        servers = []
        for seed in range(seeds):
            fields = {**vars(model), "gauges": gauges}
            simulation = Simulation(Model(**fields), seed=seed)
            simulation.run(100 * second)
            servers.append(simulation.servers[0])
        starts = [converged_at(server, span=5 * second) for server in servers]
        best = statistics.mean(busy(server, 20 * second) for server in servers)
        waits = statistics.mean(waiting(server, 30 * second) for server in servers)
        cells += [f"{max(starts):.1f} s", f"{best:.1%}", f"{waits:.1%}"]
    return "| " + " | ".join(cells) + " |"


def cost_of_limit() -> float:
    """Microseconds of CPU that a limit takes for one request."""
    limit = Limit(LimitOptions(start=256, floor=256, ceiling=256))
    count = 200_000
    began = time.process_time()
    for number in range(count):
        limit.on_answer(number * 0.001, limit.on_sent(number * 0.001 - 0.256), 256)
    return (time.process_time() - began) / count * 1e6


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds and seconds")
    quick = parser.parse_args().quick
    print("| server | with gauges: 95 % from | of the best | waits ", end="")
    print("| rate only: 95 % from | of the best | waits |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, model in SCENARIOS.items():
        print(row_of(name, model, 1 if quick else 5), flush=True)
    print(f"\nA limit costs {cost_of_limit():.2f} us of CPU a request.\n")
    options = CrowdOptions(rate=2_000.0, slots=(16, 64)) if quick else CrowdOptions()
    crowd = Crowd(options)
    crowd.run()
    print("| endpoints | images/s | busy: least, mean | waits | decisions | each |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {options.endpoints} | {options.rate:,.0f} | {crowd.least_busy:.1%}, "
        f"{crowd.mean_busy:.1%} | {crowd.waits:.1%} "
        f"| {crowd.decisions:,} | {crowd.cost * 1e6:.1f} us |"
    )


if __name__ == "__main__":
    main()
