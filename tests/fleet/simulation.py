"""Servers and a client in virtual time: hours of load in seconds, and nothing waits.

A server has a front end that works on one request at a time, slots, a queue before them, and an
engine whose speed depends on how many run. The client always has work and keeps each endpoint as
full as its `Limit` allows.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from joycap_vllm.fleet import Limit, LimitOptions
from joycap_vllm.fleet.look import Sent

SAMPLE = 0.25  # seconds between two entries in a server's books
POLL = 1.0  # seconds between two looks at its gauges


class Clock:
    """Virtual time and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        """Calls `what` at a time."""
        heapq.heappush(self._events, (when, next(self._order), what, args))

    def run(self, until: float) -> None:
        """Lets time pass."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, what, args = heapq.heappop(events)
            what(*args)
        self.now = until


@dataclass
class Request:
    """One request: when it was sent, and the seconds of work left for an engine all its own."""

    sent: Sent | None  # None: another client's
    work: float
    done_at: float = 0.0  # by the engine's own clock of work
    life: int = 0
    tag: Any = None  # the client's own


@dataclass
class Model:
    """How a server behaves; may be changed while it runs.

    Args:
        slots: Requests worked on at once.
        latency: Seconds of a request whose engine works on nothing else.
        sigma: Of the lognormal spread of the work; 0 makes all requests alike.
        slope: How much slower each step is for each other request that runs.
        front: Seconds of the front end for each request, one at a time.
        queue: Most requests it has at once before it says 503; None takes all.
        gauges: Whether it shows what runs and waits.
        others: Requests of other clients that it always has.
        jitter: Mean seconds by which answers reach the client late: bursts are never quite sharp.
    """

    slots: int = 64
    latency: float = 1.0
    sigma: float = 0.0
    slope: float = 0.0
    front: float = 0.0
    queue: int | None = None
    gauges: bool = True
    others: int = 0
    jitter: float = 0.0

    def speed(self, running: int) -> float:
        """Work done per second for each request that runs."""
        return 1 / (1 + self.slope * max(0, running - 1))

    @property
    def best(self) -> float:
        """Most seconds of work done per second."""
        engine = self.slots * self.speed(self.slots)
        return min(engine, self.latency / self.front) if self.front else engine


@dataclass
class Sample:
    """What a server was doing at a moment."""

    at: float
    limit: int
    in_flight: int
    waiting: int
    work: float  # done since the start
    best: float  # that could have been done since the start


@dataclass
class Server:
    """A server and the client's limit for it."""

    clock: Clock
    model: Model
    limit: Limit
    draw: random.Random
    answered: Callable[[Server, Any], None]  # an answer came, or the limit may have moved: None
    in_flight: int = 0
    rests_until: float = 0.0
    life: int = 0
    down: bool = False
    refused: int = 0
    answers: int = 0
    books: list[Sample] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    sample: float = SAMPLE  # infinite keeps no books

    def __post_init__(self) -> None:
        self._running: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self._queue: deque[Request] = deque()
        self._front_free = 0.0
        self._in_front = 0
        self._work_clock = self._last = 0.0
        self._work = self._best = 0.0
        self._turn = 0
        for _ in range(self.model.others):
            self._enter(Request(None, self._length(), life=self.life))
        self.clock.at(self.sample, self._sample)
        # Polls of real servers fall anywhere between their steps.
        self.clock.at(POLL * (0.3 + 0.7 * self.draw.random()), self._poll)

    @property
    def free(self) -> bool:
        """Whether the client may send it a request."""
        full = self.in_flight >= self.limit.value
        return not (full or self.down or self.clock.now < self.rests_until)

    def send(self, tag: Any = None, sent: Sent | None = None) -> None:
        """A request of the client; with the answer comes its tag. `sent` is what its limit was told
        already, by a dispatch."""
        now = self.clock.now
        self.in_flight += 1
        sent = sent or self.limit.on_sent(now)
        if self.model.queue is not None and self.in_flight > self.model.queue:
            self.in_flight -= 1
            self.refused += 1
            self.rests_until = now + 1.0
            self.limit.on_full(now, 1.0)
            self.clock.at(self.rests_until, self.answered, self, None)
            return
        request = Request(sent, self._length(), life=self.life, tag=tag)
        if self.model.front:
            self._in_front += 1
            self._front_free = max(self._front_free, now) + self.model.front
            self.clock.at(self._front_free, self._pass_front, request)
        else:
            self._enter(request)

    def restart(self, seconds: float) -> None:
        """Everything in it is lost; it is back after so many seconds."""
        self._advance()
        self.life += 1
        self.down = True
        self._running.clear()
        self._queue.clear()
        self.in_flight = self._in_front = 0
        self._turn += 1
        self.clock.at(self.clock.now + seconds, self._come_back)

    def change(self, **changes: Any) -> None:
        """From now on it behaves in another way."""
        self._advance()
        for name, value in changes.items():
            setattr(self.model, name, value)
        self._fill()

    def _come_back(self) -> None:
        self.down = False
        self.limit.on_back(self.clock.now)
        self.answered(self, None)

    def _length(self) -> float:
        model = self.model
        if not model.sigma:
            return model.latency
        return model.latency * self.draw.lognormvariate(-(model.sigma**2) / 2, model.sigma)

    def _pass_front(self, request: Request) -> None:
        if request.life == self.life:
            self._in_front -= 1
            self._enter(request)

    def _enter(self, request: Request) -> None:
        self._advance()
        self._queue.append(request)
        self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._running) < self.model.slots:
            request = self._queue.popleft()
            done_at = self._work_clock + request.work
            heapq.heappush(self._running, (done_at, next(self._order), request))
        self._turn += 1
        if self._running:
            left = self._running[0][0] - self._work_clock
            when = self.clock.now + left / self.model.speed(len(self._running))
            self.clock.at(when, self._finish, self._turn)

    def _advance(self) -> None:
        """Brings the books up to now."""
        passed = self.clock.now - self._last
        running = len(self._running)
        speed = self.model.speed(running)
        self._work_clock += passed * speed
        self._work += passed * speed * running
        self._best += 0.0 if self.down else passed * self.model.best
        self._last = self.clock.now

    def _finish(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        request = heapq.heappop(self._running)[2]
        self._fill()
        if request.sent is None:  # another client's, which sends its next at once
            self._enter(Request(None, self._length(), life=self.life))
            return
        jitter = self.model.jitter
        late = self.draw.expovariate(1 / jitter) if jitter else 0.0
        self.clock.at(self.clock.now + late, self._answer, request)

    def _answer(self, request: Request) -> None:
        if request.life != self.life:
            return
        assert request.sent is not None
        self.limit.on_answer(self.clock.now, request.sent, self.in_flight)
        self.in_flight -= 1
        self.answers += 1
        self.answered(self, request.tag)

    def _sample(self) -> None:
        self._advance()
        if not self.down:
            waiting = len(self._queue) + max(0, self._in_front - 1)
            self.books.append(
                Sample(
                    self.clock.now,
                    self.limit.value,
                    self.in_flight,
                    waiting,
                    self._work,
                    self._best,
                )
            )
            self.waits.append(self.limit.wait)
        self.clock.at(self.clock.now + self.sample, self._sample)

    def _poll(self) -> None:
        if self.model.gauges and not self.down:
            self.limit.on_load(self.clock.now, len(self._running), len(self._queue), self.in_flight)
            self.answered(self, None)
        self.clock.at(self.clock.now + POLL, self._poll)


class Simulation:
    """A client that always has work, or works on at most `most` at once, and its servers."""

    def __init__(
        self,
        *models: Model,
        seed: int = 0,
        options: LimitOptions | None = None,
        most: float = math.inf,
    ) -> None:
        self.clock = Clock()
        self.draw = random.Random(seed)
        self.most = most
        self.servers = [
            Server(self.clock, model, Limit(options), self.draw, self._answered) for model in models
        ]
        for server in self.servers:
            self.clock.at(0.0, self._answered, server, None)

    def run(self, seconds: float) -> None:
        """Lets so many virtual seconds pass."""
        self.clock.run(self.clock.now + seconds)

    def _answered(self, server: Server, _: Any) -> None:
        while server.free and sum(s.in_flight for s in self.servers) < self.most:
            server.send()


def busy(server: Server, since: float, until: float = math.inf) -> float:
    """Work done between two moments as a share of the most that could have been done."""
    books = [s for s in server.books if since <= s.at <= until]
    return (books[-1].work - books[0].work) / (books[-1].best - books[0].best)


def waiting(server: Server, since: float, until: float = math.inf) -> float:
    """Mean share of the client's requests in flight that waited."""
    books = [s for s in server.books if since <= s.at <= until and s.in_flight]
    return sum(min(1.0, s.waiting / s.in_flight) for s in books) / max(1, len(books))


def longest_wait(server: Server, since: float, span: float = 10.0) -> float:
    """Largest share that waited on average over any `span` seconds."""
    end = server.books[-1].at
    starts = [
        since + step * span / 4 for step in range(max(1, int((end - since - span) * 4 / span)))
    ]
    return max(waiting(server, start, start + span) for start in starts)


def converged_at(server: Server, share: float = 0.95, span: float = 5.0) -> float:
    """The first moment from which so many seconds reach a share of the best; infinite if never."""
    end = server.books[-1].at
    moment = 0.25
    while moment + span <= end:
        if busy(server, moment, moment + span) >= share:
            return moment
        moment += 0.5
    return math.inf
