"""A GPU node in virtual time: eight simulated engines, a client with the real dispatch and limits.

What a failure costs is measured here request by request; `bench_cluster.py` adds it up over weeks.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

from fleet.simulation import Clock, Model, Server

from joycap_vllm.fleet import Limit
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.places import Member, Ticket

AHEAD = 256  # requests that wait for a place, so that the client is never the limit
WARM = 240.0  # virtual seconds after which a node is at its rate
STEP = 1.0  # seconds of a bin in which answers are counted


@dataclass(frozen=True)
class Card:
    """A GPU as an engine: captions at once, and captions a second."""

    name: str
    slots: int
    rate: float

    def scaled(self, by: int) -> Card:
        """A card of which each request stands for `by` requests."""
        return Card(self.name, max(1, self.slots // by), self.rate / by)


@dataclass(frozen=True)
class Failure:
    """Something that goes wrong on a node.

    Args:
        name: What it is.
        hours: Mean hours of a node between two of them.
        gone: Seconds until what failed is back.
        source: Where the rate comes from.
    """

    name: str
    hours: float
    gone: float
    source: str


class Node:
    """Eight engines and the client that keeps them full."""

    def __init__(self, card: Card, seed: int = 0, gpus: int = 8, scale: int = 1) -> None:
        self.clock = Clock()
        self.draw = random.Random(seed)
        self.lost = 0  # requests that were in flight at a failure and are asked again
        self.answers: list[int] = []
        self._ahead = max(1, AHEAD // scale)
        self._images = itertools.count()
        self._stalled_until = 0.0
        self._away = False
        self._taken: list[Ticket] = []
        card = card.scaled(scale)
        model = {"slots": card.slots, "latency": card.slots / card.rate, "sigma": 0.3}
        self.servers = [
            Server(self.clock, Model(**model), Limit(), self.draw, self._answered, sample=math.inf)  # type: ignore[arg-type]
            for _ in range(gpus)
        ]
        self._start_client()
        self.clock.at(0.0, self._ask)

    def run(self, seconds: float) -> None:
        """Lets so many virtual seconds pass."""
        self.clock.run(self.clock.now + seconds)

    def fail(self, failure: Failure) -> None:
        """Lets something go wrong now."""
        now = self.clock.now
        match failure.name:
            case "engine dies":
                self._kill_engine(self.draw.choice(self.servers), failure.gone)
            case "store out of reach":
                self._stalled_until = now + failure.gone
                self.clock.at(self._stalled_until, self._ask)
            case "client dies":
                self._kill_client(failure.gone)
            case _:  # the node goes, and its engines with it
                for server in self.servers:
                    server.restart(failure.gone)
                self._kill_client(failure.gone)

    def _start_client(self) -> None:
        self._away = False
        self._dispatch = Dispatch(self._taken.append)
        self._in_flight: dict[int, dict[int, Ticket]] = {id(s): {} for s in self.servers}
        self._members: dict[int, Member] = {}
        self._by_name: dict[str, Server] = {}
        for number, server in enumerate(self.servers):
            name = f"http://127.0.0.1:{8000 + number}/v1"
            server.limit = Limit()
            self._by_name[name] = server
            member = self._dispatch.join(name, server.limit, self.clock.now)
            self._members[id(server)] = member
            if server.down:
                self._dispatch.down(member, "it is not up yet", self.clock.now)

    def _kill_engine(self, server: Server, gone: float) -> None:
        now, member = self.clock.now, self._members[id(server)]
        tickets = [*self._in_flight[id(server)].values()]
        self._in_flight[id(server)].clear()
        server.restart(gone)
        self._dispatch.down(member, "it died", now)
        for ticket in tickets:
            self._dispatch.done(ticket, now)
        self.lost += len(tickets)
        self._ask()

    def _kill_client(self, gone: float) -> None:
        self.lost += sum(len(tickets) for tickets in self._in_flight.values())
        for server in self.servers:
            if not server.down:  # an engine drops what nobody waits for
                server.restart(0.0)
        self._in_flight = {id(server): {} for server in self.servers}
        self._taken.clear()
        self._away = True
        self.clock.at(self.clock.now + gone, self._come_back)

    def _come_back(self) -> None:
        self._start_client()
        self._ask()

    def _answered(self, server: Server, ticket: Any) -> None:
        if self._away:
            return
        now, member = self.clock.now, self._members[id(server)]
        if ticket is not None:
            if self._in_flight[id(server)].pop(id(ticket), None) is None:
                return
            self._count(now)
            self._dispatch.done(ticket, now)
        elif member.down_why and not server.down:
            self._dispatch.up(member, now)
        else:
            self._dispatch.wake(member, now)
        self._send()
        self._ask()

    def _count(self, now: float) -> None:
        at = int(now / STEP)
        self.answers.extend([0] * (at + 1 - len(self.answers)))
        self.answers[at] += 1

    def _ask(self) -> None:
        now = self.clock.now
        if self._away or now < self._stalled_until:
            return
        while self._dispatch.waiting < self._ahead:
            ticket = self._dispatch.ask(f"picture {next(self._images)}", now)
            if ticket.member is not None and not ticket.has_waited:
                self._taken.append(ticket)
            self._send()

    def _send(self) -> None:
        for ticket in self._taken:
            server = self._by_name[ticket.at.name]
            self._in_flight[id(server)][id(ticket)] = ticket
            server.send(ticket, ticket.sent)
        self._taken.clear()

    def done(self, since: float, until: float) -> int:
        """Answers between two moments."""
        return sum(self.answers[int(since / STEP) : int(until / STEP)])


@dataclass(frozen=True)
class Cost:
    """What one failure of a kind costs: requests asked twice, and seconds of the whole node."""

    lost: float
    seconds: float


def cost_of(card: Card, failure: Failure, seeds: int = 1, scale: int = 1) -> Cost:
    """Measures a failure on a node that is at its rate, until it is so again.

    Args:
        card: The node's GPUs.
        failure: What goes wrong.
        seeds: Runs that are averaged.
        scale: Requests for which each simulated one stands.
    """
    lost = seconds = 0.0
    for seed in range(seeds):
        node = Node(card, seed, scale=scale)
        node.run(2 * WARM)
        rate = node.done(WARM, 2 * WARM) / WARM
        began = node.clock.now
        node.fail(failure)
        node.run(failure.gone + WARM)
        missing = rate * (node.clock.now - began) - node.done(began, node.clock.now)
        lost += node.lost * scale / seeds
        seconds += missing / rate / seeds
    return Cost(lost, seconds)
