"""How soon and how well auto concurrency fills servers, in real time, against stub servers.

`scripts/bench auto [CASE...] [--sigma 0.5] [--seconds 45]`: the real fleet with endless work and a
small picture that is ready, so that no image work is in the way. Cases: slots of a server (`1`,
`8`, `64`, `512`), `unequal` (64 slots of 1 s beside 16 of 2 s), `restart` (killed after 20 s, and
on its port again after 3 s). Each with vLLM's gauges and without; what costs little runs at once.

The stubs keep the books: seconds that requests have had a slot, and have waited for one. A share of
the best is a share of all slots' seconds, so no fixed setting can do more; what one of 1.1 times
the slots does stands beside it. `95 % from`: the first second from which 5 s on average reach
95 %, counted from when the server was there; the share itself and `least`, the worst 5 s, are from
second 20 on. `waits`: the share of requests in flight that wait, and the longest time for which it
was above 20 %, from second 20 on, or 15 answers' time where that is later. A row ends with what is
not as promised (long is 10 answers' time); the exit status tells whether any is.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from stub_server import Stub, StubOptions, stub

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet import Body, Endpoint, Fleet, FleetOptions, request_body

SAMPLE = 0.25  # seconds between two looks into a stub's books
SPAN = 5.0  # seconds over which a share of the best is taken
SETTLED = 20.0  # seconds after which all should be well
WAITED = 15.0  # answers' time after which little should wait
SHARE, WAITS, LONG = 0.95, 0.2, 10.0  # promises: of the best; share that waits, answers' time of it
LEAST = 35.0  # seconds that a case is looked at: 5 more than the last that is judged from
EAGER = 1100  # requests that want a place, for each endpoint: more than any limit
LIVES = (20.0, 3.0)  # seconds until a server is killed, and until it is back
PICTURE = bytes(1000)
CASES = ("1", "8", "64", "512", "unequal", "restart")


@dataclass
class Sight:
    """What a stub's books say since its start."""

    at: float
    work: float
    waited: float


@dataclass
class Life:
    """A stub from its start to its end.

    Args:
        options: What it is.
        name: What to call it.
        fixed: The share of the best that a fixed setting does; NaN where it was not measured.
    """

    options: StubOptions
    name: str
    fixed: float = math.nan
    sights: list[Sight] = field(default_factory=list)

    def note(self, stats: dict[str, Any]) -> None:
        """Adds an entry of the books."""
        self.sights.append(Sight(stats["now"], stats["work"], stats["waited"]))

    def share(self, since: float, until: float = math.inf) -> float:
        """Work done between two seconds of its life, of the most that could have been done."""
        first, last = self._ends(since, until)
        return (last.work - first.work) / (last.at - first.at) / self.options.slots

    def shares(self, since: float) -> Iterator[tuple[float, float]]:
        """Seconds from `since` on, each with the share of the `SPAN` that begins there."""
        end = self.sights[-1].at - self.sights[0].at
        while since + SPAN <= end:
            yield since, self.share(since, since + SPAN)
            since += SAMPLE

    def waits(self, since: float, until: float = math.inf) -> float:
        """Share of requests in flight that waited, on average."""
        first, last = self._ends(since, until)
        waited, work = last.waited - first.waited, last.work - first.work
        return waited / max(1e-9, waited + work)

    def longest_wait(self, since: float) -> float:
        """Seconds for which more than `WAITS` of those in flight waited at a stretch."""
        longest = now = 0.0
        began = self.sights[0].at
        for before, after in itertools.pairwise(self.sights):
            waited, work = after.waited - before.waited, after.work - before.work
            much = before.at - began >= since and waited > WAITS * (waited + work)
            now = now + after.at - before.at if much else 0.0
            longest = max(longest, now)
        return longest

    def _ends(self, since: float, until: float) -> tuple[Sight, Sight]:
        began = self.sights[0].at
        first = min(self.sights, key=lambda sight: abs(sight.at - began - since))
        last = min(self.sights, key=lambda sight: abs(sight.at - began - min(until, 1e9)))
        return first, last


@dataclass(frozen=True)
class Case:
    """A fleet and what happens to it."""

    servers: tuple[StubOptions, ...]
    restarts: bool = False
    fixed: bool = False


def body_for(_: Endpoint) -> Body:
    """A request that costs next to nothing."""
    return request_body(
        model="stub", system="", text="What?", picture=PICTURE, mime="image/jpeg", sampling={}
    )


async def ask_for_ever(fleet: Fleet, numbers: Iterator[int]) -> None:
    """Requests one after the other; those that break are forgotten, as their job tries again."""
    for number in numbers:
        try:
            await fleet.ask(f"picture {number}", body_for)
        except TransportError:
            await asyncio.sleep(0)


async def watch(life: Life, server: Stub, seconds: float) -> Life:
    """Keeps a stub's books for so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        life.note(await asyncio.to_thread(server.stats))
        await asyncio.sleep(SAMPLE)
    return life


async def relive(
    options: StubOptions, stack: ExitStack, server: Stub, seconds: float
) -> list[Life]:
    """A stub that is killed and started again: the life that counts is the second."""
    await asyncio.sleep(LIVES[0])
    await asyncio.to_thread(stack.close)
    await asyncio.sleep(LIVES[1])
    again = await asyncio.to_thread(stack.enter_context, stub(replace(options, port=server.port)))
    return [await watch(Life(options, f"{told(options)}, after a restart"), again, seconds)]


async def run_case(case: Case, seconds: float) -> list[Life]:
    """The lives of a fleet's servers."""
    with ExitStack() as stack:
        stubs = [
            await asyncio.to_thread(stack.enter_context, stub(options)) for options in case.servers
        ]
        endpoints = [Endpoint(server.url) for server in stubs]
        for endpoint in endpoints:
            await endpoint.probe(None)
        slots = sum(options.slots for options in case.servers)
        fixed = FleetOptions(concurrency=math.ceil(1.1 * slots) if case.fixed else None)
        async with Fleet(endpoints, fixed) as fleet, asyncio.TaskGroup() as group:
            numbers = itertools.count()
            workers = [
                group.create_task(ask_for_ever(fleet, numbers)) for _ in range(EAGER * len(stubs))
            ]
            try:
                if case.restarts:
                    return await relive(case.servers[0], stack, stubs[0], seconds)
                lives = [Life(options, told(options)) for options in case.servers]
                watched = zip(lives, stubs, strict=True)
                return list(await asyncio.gather(*(watch(*pair, seconds) for pair in watched)))
            finally:
                for worker in workers:
                    worker.cancel()


def told(options: StubOptions) -> str:
    """A server in words."""
    return f"{options.slots} slot{'s' * (options.slots > 1)} of {options.latency:g} s"


async def run_all(cases: Sequence[Case], seconds: float) -> list[list[Life]]:
    """The lives of each case's servers; all cases at once."""
    return list(await asyncio.gather(*(run_case(case, seconds) for case in cases)))


async def run_group(cases: Sequence[Case], seconds: float) -> list[Life]:
    """All at once; before that, those of which it is asked for with a fixed setting."""
    rated = [case for case in cases if case.fixed]
    fixed = dict(zip(rated, await run_all(rated, 12.0), strict=True))
    found = await run_all([replace(case, fixed=False) for case in cases], seconds)
    for case, lives in zip(cases, found, strict=True):
        for life, peer in zip(lives, fixed.get(case, []), strict=False):
            life.fixed = peer.share(6.0)
    return [life for lives in found for life in lives]


def row_of(life: Life) -> tuple[str, bool]:
    """A row of the table, and whether all is as promised."""
    options, share = life.options, life.share(SETTLED)
    begun = next((moment for moment, held in life.shares(0.0) if held >= SHARE), math.inf)
    least = min((held for _, held in life.shares(SETTLED)), default=math.nan)
    calm = max(SETTLED, WAITED * options.latency)
    waits, longest = life.waits(calm), life.longest_wait(calm)
    rate = options.slots / options.latency
    cells = [
        life.name,
        "yes" if options.metrics else "no",
        f"{rate:.1f}",
        "" if math.isnan(life.fixed) else f"{rate * life.fixed:.1f}",
        f"{rate * share:.1f}",
        f"{share:.1%}",
        f"{begun:.1f} s",
        f"{least:.1%}",
        f"{waits:.1%}",
        f"{longest:.1f} s",
    ]
    broken = {
        "too slow": share < SHARE,
        "too late": begun > SETTLED,
        "waits long": longest > LONG * options.latency,
    }
    fails = ", ".join(name for name, bad in broken.items() if bad)
    return "| " + " | ".join([*cells, fails]) + " |", not fails


def chosen(names: Sequence[str], sigma: float) -> list[list[Case]]:
    """Groups of cases; those of one group run at once."""
    both = [StubOptions(sigma=sigma, metrics=metrics) for metrics in (True, False)]
    few = [
        Case((replace(server, slots=int(name)),), fixed=True)
        for name in names
        if name in ("1", "8", "64")
        for server in both
    ]
    # So many answers a second would take a core of the client's: longer ones show the same.
    many = [
        [Case((replace(server, slots=512, latency=2.0),), fixed=True)]
        for server in both
        if "512" in names
    ]
    others = []
    for server in both:
        fast, slow = replace(server, slots=64), replace(server, slots=16, latency=2.0)
        others += [Case((fast, slow), fixed=True)] * ("unequal" in names)
        others += [Case((fast,), restarts=True)] * ("restart" in names)
    return [group for group in (few, *many, others) if group]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}: all")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of answer times")
    parser.add_argument("--seconds", type=float, default=45.0, help="that a case is looked at")
    given = parser.parse_args()
    if given.seconds < LEAST:
        parser.error(f"--seconds is at least {LEAST:.0f}")
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}")
    print(
        "| server | gauges | best/s | fixed/s | auto/s | of the best | 95 % from | least 5 s ",
        end="",
    )
    print("| waits | over 20 % for | fails |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    well = True
    for group in chosen(given.cases or CASES, given.sigma):
        for life in asyncio.run(run_group(group, given.seconds)):
            row, fine = row_of(life)
            well = well and fine
            print(row, flush=True)
    return not well


if __name__ == "__main__":
    raise SystemExit(main())
