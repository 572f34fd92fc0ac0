"""A hundred million images over 64 nodes of eight GPUs, with failures, in virtual time.

`scripts/bench cluster [--quick]`. Each node has a client of its own (`--shard I/64`). What a
failure costs is measured on one node request by request, with the real dispatch and limits; journal
lines are written by the real journal; both are then added up over all nodes by virtual clocks.
Rates of GPUs and of failures are assumed: scripts/measurements.md says from where.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleet.simulation import Clock

from joycap_vllm.job import Journal

from bench_journal import line_of, outcome
from cluster_node import WARM, Card, Cost, Failure, Node, cost_of

HOUR = 3600.0
WEEK = 168 * HOUR
NODES, GPUS, IMAGES = 64, 8, 100_000_000
RESUME = 41 / 4_900_000  # seconds to read a record (`scripts/bench millions`, two cores)
MEMORY = 43  # bytes for a task that a journal knows (`scripts/bench millions`)
PICTURE = 352_000  # bytes, a JPEG of 1024x1024 as `scripts/bench client` draws them
CPU = 14.8e-3  # seconds of the client for such a picture (`scripts/bench client`)
CARDS = (
    Card("h100", 400, 25.0),
    Card("l40s", 168, 7.0),
    Card("rtx-4090", 80, 8.0),
)
RESERVED = (
    Failure("engine dies", 500 / GPUS, 120, "assumed: once in 500 GPU hours, 2 min to load again"),
    Failure("client dies", 200, 10, "assumed: once in 200 h; systemd starts it again after 10 s"),
    Failure("store out of reach", 100, 30, "assumed: 30 s once in 100 h of a node"),
    Failure("node lost", 50_700 / GPUS, HOUR, "Llama 3: once in 50,700 GPU hours; an hour assumed"),
)
SPOT = (*RESERVED, Failure("node taken away", 24, 900, "assumed: once a day, back after 15 min"))


@dataclass(frozen=True)
class Fleet:
    """What became of a job, or of a week.

    Args:
        hours: Of each node until its part was done.
        failures: How often what happened.
        lost: Requests in flight at failures, asked again.
        captions: Made by all.
    """

    hours: Sequence[float]
    failures: Counter[str]
    lost: float
    captions: float


def simulate(
    card: Card,
    costs: Mapping[Failure, Cost],
    *,
    work: float,
    until: float = 1e12,
    nodes: int = NODES,
    seed: int = 0,
) -> Fleet:
    """Lets every node do its part, or work until a time.

    Args:
        card: The GPUs.
        costs: What each failure costs a node.
        work: Images of a node.
        until: Seconds after which all stop.
        nodes: How many there are.
        seed: Of the failures.
    """
    draw = random.Random(seed)
    rate = card.rate * GPUS
    hours, failures, lost, captions = [], Counter[str](), 0.0, 0.0
    for _ in range(nodes):
        clock, spent = Clock(), [work / rate]
        happened: list[Failure] = []

        def fail(failure: Failure, clock: Clock = clock, spent: list[float] = spent,
                 happened: list[Failure] = happened) -> None:  # fmt: skip
            if clock.now < spent[0]:
                happened.append(failure)
                spent[0] += costs[failure].seconds
                clock.at(clock.now + draw.expovariate(1 / (failure.hours * HOUR)), fail, failure)

        for failure in costs:
            clock.at(draw.expovariate(1 / (failure.hours * HOUR)), fail, failure)
        clock.run(until)
        ended = min(spent[0], until)
        idle = sum(costs[failure].seconds for failure in happened)
        hours.append(ended / HOUR)
        captions += rate * max(0.0, ended - idle)
        lost += sum(costs[failure].lost for failure in happened)
        failures.update(failure.name for failure in happened)
    return Fleet(hours, failures, lost, captions)


def line_bytes(count: int) -> float:
    """Bytes of a record on disk, written by the real journal."""
    draw = random.Random(5)

    async def write(folder: Path) -> None:
        async with Journal(folder) as journal:
            lines = (line_of(number, outcome(draw)) for number in range(count))
            await asyncio.gather(*map(journal.append, lines))

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(write(Path(name)))
        return sum(f.stat().st_size for f in Path(name).glob("journal-*")) / count


def check(card: Card, costs: Mapping[Failure, Cost], hours: float) -> tuple[int, float, float]:
    """Failures, and captions that a node made through a storm of them, request by request, and as
    the costs foretell."""
    node, draw = Node(card, seed=9), random.Random(9)
    node.run(2 * WARM)
    began, end = node.clock.now, node.clock.now + hours * HOUR
    rate = node.done(WARM, began) / WARM
    due, spent, happened = began + 60, 0.0, 0
    while due + 600 < end:
        failure = draw.choice([f for f in costs if f.gone < 600])
        node.run(due - node.clock.now)
        node.fail(failure)
        happened += 1
        spent += costs[failure].seconds
        due += 300 + draw.expovariate(1 / 200)
    node.run(end - node.clock.now)
    return happened, node.done(began, end), rate * (hours * HOUR - spent)


def costs_of(card: Card, failures: Sequence[Failure], seeds: int) -> dict[Failure, Cost]:
    """What each failure costs; a client that dies also reads its part's journal again."""
    reading = IMAGES / NODES / 2 * RESUME
    costs = {}
    for failure in failures:
        slower = "client" in failure.name or "node" in failure.name
        real = replace(failure, gone=failure.gone + reading) if slower else failure
        costs[failure] = cost_of(card, real, seeds)
    return costs


def print_costs(card: Card, costs: Mapping[Failure, Cost]) -> None:
    """The first table: the failures."""
    print(f"\nWhat a failure costs a node of {GPUS} {card.name}, request by request:\n")
    print("| failure | a node, every | gone for | asked twice | node seconds lost | rate |")
    print("|---|--:|--:|--:|--:|---|")
    for failure, cost in costs.items():
        print(
            f"| {failure.name} | {failure.hours:,.0f} h | {failure.gone:,.0f} s "
            f"| {cost.lost:,.0f} | {cost.seconds:,.0f} | {failure.source} |"
        )


def print_scaling(card: Card, failures: Sequence[Failure]) -> None:
    """The second: the same with requests that stand for ten and a hundred."""
    print("\nThe same with requests that each stand for several (asked twice, node seconds):\n")
    print("| failure | 1 | 10 | 100 |\n|---|--:|--:|--:|")
    for failure in failures:
        cells = [cost_of(card, failure, scale=scale) for scale in (1, 10, 100)]
        shown = " | ".join(f"{cost.lost:,.0f}, {cost.seconds:,.0f} s" for cost in cells)
        print(f"| {failure.name} | {shown} |", flush=True)


def print_fleet(name: str, card: Card, fleet: Fleet, size: float) -> None:
    """A row of the third; `busy` is of what the GPUs could do until the last node is done."""
    rate = fleet.captions / max(fleet.hours) / HOUR
    busy = rate / (card.rate * GPUS * NODES)
    print(
        f"| {name} | {fleet.captions:,.3g} | {min(fleet.hours):.2f} to {max(fleet.hours):.2f} h "
        f"| {busy:.1%} | {fleet.failures.total():,} | {fleet.lost:,.0f} "
        f"({fleet.lost / fleet.captions:.4%}) | {fleet.captions * size / 1e9:,.0f} GB "
        f"| {rate:,.0f}/s, {rate * PICTURE / 1e9:.1f} GB/s | {rate * CPU:,.0f} |",
        flush=True,
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one card, one seed, a short check")
    quick = parser.parse_args().quick
    cards = CARDS[:1] if quick else CARDS
    size = line_bytes(2_000 if quick else 20_000)
    costs = {card: costs_of(card, SPOT, 1 if quick else 3) for card in cards}
    print_costs(cards[0], costs[cards[0]])
    if not quick:
        print_scaling(cards[0], RESERVED[:3])
    happened, made, foretold = check(cards[0], costs[cards[0]], 0.5 if quick else 2.0)
    print(
        f"\nCheck: a node through {happened} failures made {made:,} captions request by request; "
        f"the costs foretell {foretold:,.0f} ({made / foretold - 1:+.2%}).\n\n"
        f"{NODES} nodes of {GPUS} GPUs; a record takes {size:,.0f} bytes in the journal:\n"
    )
    print(
        "| fleet | captions | nodes are done after | busy | failures | asked twice | journals ",
        end="",
    )
    print("| the store sees | client cores |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for card in cards:
        for name, failures in (("reserved", RESERVED), ("spot", SPOT)):
            few = {failure: costs[card][failure] for failure in failures}
            job = simulate(card, few, work=IMAGES / NODES)
            print_fleet(f"{card.name}, {name}: 100 million", card, job, size)
            week = simulate(card, few, work=1e18, until=WEEK)
            print_fleet(f"{card.name}, {name}: a week", card, week, size)
    part = IMAGES // NODES
    print(
        f"\nA client that starts again reads its part's journal ({part:,} records) in "
        f"{part * RESUME:.0f} s and keeps {part * MEMORY / 1e6:.0f} MB; the journals of all parts "
        f"({IMAGES:,}) would take {IMAGES * RESUME / 60:.0f} min and "
        f"{IMAGES * MEMORY / 1e9:.1f} GB.\nLIST calls at 1,000 names each: {IMAGES // 1000:,} for "
        f"each client that lists the bucket, {NODES * IMAGES // 1000:,} for all; none with "
        f"manifests or shards."
    )


if __name__ == "__main__":
    main()
