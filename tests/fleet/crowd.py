"""Many simulated endpoints behind the real dispatch: they join, leave, slow down and crash."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from fleet.simulation import Clock, Model, Server, busy, waiting
from joycap_vllm.fleet import Limit
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.places import Member, Ticket

SETTLED = 20.0  # seconds after which an endpoint is to be busy
AHEAD = 256  # requests that wait for a place, so that the client is never the limit


@dataclass(frozen=True)
class CrowdOptions:
    """A crowd of endpoints.

    Args:
        rate: Images a second that all of them can do at the start.
        endpoints: How many there are at the start; some more join, as many leave.
        seconds: How long it lasts.
        slots: Bounds of the slots of an endpoint.
        changes: Endpoints that join, that leave, and that slow down, each.
    """

    rate: float = 50_000.0
    endpoints: int = 64
    seconds: float = 60.0
    slots: tuple[int, int] = (64, 400)
    changes: int = 6


class Crowd:
    """A client that always has work for a fleet in virtual time."""

    def __init__(self, options: CrowdOptions, seed: int = 1) -> None:
        self.options = options
        self.clock = Clock()
        self.draw = random.Random(seed)
        self._taken: list[Ticket] = []
        self.dispatch = Dispatch(self._taken.append)
        self.decisions = 0
        self._cpu = 0.0
        self._servers: dict[str, Server] = {}
        self._members: dict[str, Member] = {}
        self._names: dict[int, str] = {}
        self._lives: dict[str, list[float]] = {}
        self._images = itertools.count()
        slots = [self.draw.randint(*options.slots) for _ in range(options.endpoints)]
        # All have about one latency, some are slower; together they do the rate.
        speeds = [self.draw.uniform(0.5, 2.0) for _ in slots]
        self._unit = sum(n * v for n, v in zip(slots, speeds, strict=True)) / options.rate
        for count, speed in zip(slots, speeds, strict=True):
            self._join(count, self._unit / speed)
        for number in range(options.changes):
            step = (options.seconds - 2 * SETTLED) / max(1, options.changes)
            at = SETTLED + step * number
            self.clock.at(at, self._join, self.draw.randint(*options.slots), self._unit)
            self.clock.at(at + step / 3, self._leave)
            self.clock.at(at + 2 * step / 3, self._slow)

    def run(self) -> None:
        """Lets it all happen."""
        self.clock.run(self.options.seconds)

    @property
    def shares(self) -> list[float]:
        """How busy each endpoint was from a while after it joined until it left."""
        spans = ((n, since + SETTLED, until) for n, (since, until) in self._lives.items())
        return [busy(self._servers[n], a, b) for n, a, b in spans if b - a > 5]

    @property
    def least_busy(self) -> float:
        """The share of the time that the least busy endpoint worked."""
        return min(self.shares)

    @property
    def mean_busy(self) -> float:
        """The share of the time that endpoints worked on average."""
        return statistics.mean(self.shares)

    @property
    def waits(self) -> float:
        """The mean share of requests in flight that waited at an endpoint."""
        return statistics.mean(waiting(server, SETTLED) for server in self._servers.values())

    @property
    def answers(self) -> int:
        """Images that are done."""
        return sum(server.answers for server in self._servers.values())

    @property
    def cost(self) -> float:
        """Seconds of CPU for each request: the dispatch and its routing."""
        return self._cpu / self.decisions

    def _join(self, slots: int, latency: float) -> None:
        name = f"http://10.0.0.{len(self._servers)}:8000/v1"
        model = Model(slots=slots, latency=latency, sigma=0.3)
        server = Server(self.clock, model, Limit(), self.draw, self._answered)
        self._servers[name] = server
        self._names[id(server)] = name
        self._lives[name] = [self.clock.now, self.options.seconds]
        self._members[name] = self.dispatch.join(name, server.limit, self.clock.now)
        self._ask()

    def _leave(self) -> None:
        name = self.draw.choice(sorted(self.dispatch.members))
        self._lives[name][1] = self.clock.now
        self.dispatch.leave(self._members[name], self.clock.now)

    def _slow(self) -> None:
        server = self._servers[self.draw.choice(sorted(self.dispatch.members))]
        server.change(latency=2 * server.model.latency)

    def _answered(self, server: Server, ticket: Any) -> None:
        now = self.clock.now
        began = time.process_time()
        if ticket is None:
            self.dispatch.wake(self._members[self._names[id(server)]], now)
        else:
            self.dispatch.done(ticket, now)
        self._cpu += time.process_time() - began
        self._send()
        self._ask()

    def _ask(self) -> None:
        now = self.clock.now
        while self.dispatch.waiting < AHEAD:
            began = time.process_time()
            ticket = self.dispatch.ask(f"picture {next(self._images)}", now)
            self._cpu += time.process_time() - began
            self.decisions += 1
            if ticket.member is not None and not ticket.has_waited:
                self._taken.append(ticket)
            self._send()

    def _send(self) -> None:
        for ticket in self._taken:
            self._servers[ticket.at.name].send(ticket, ticket.sent)
        self._taken.clear()
