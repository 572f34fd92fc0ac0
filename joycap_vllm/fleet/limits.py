"""How many requests an endpoint gets at once: a pure state machine.

    slow start   doubles while vLLM's gauges show that nothing waits; by rate alone quadruples while
                 a fair share comes out as rate (only some: -> probe down). Then it settles at what
                 that rate needs at the latency of the level below (Little's law).        -> hold
    hold         looks on; a coarse probe down if nothing less was tried, or if the server became
                 slower; now and then a small probe, mostly up.           -> probe up, probe down
    probe up     is kept if a fair share came out as rate. All of it, twice: -> slow start;
                 some: a further probe up; else back.                                     -> hold
    probe down   is kept if the rate did not fall, else back.               -> hold, slow start

At any time: a refusal or a queue in vLLM's gauges cuts at once (-> hold), and a server that was
down starts anew (-> slow start). With gauges there are no probes down. Where others like this one
share a server without gauges there are no probes up: whoever sends more to a full server gets more
of its answers, so each would see its rate follow, for ever. What the states decide on is
a `Look`; it has so many answers, more where they are noisy. No clock is read and no I/O done.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Literal

from joycap_vllm.fleet.bounds import Change, LimitOptions
from joycap_vllm.fleet.gauges import SLACK, Gauges
from joycap_vllm.fleet.look import Look, Sent, answers_for, gain, noise, stepped, turned

__all__ = ["Change", "Limit", "LimitOptions", "State", "Wait"]

Wait = Literal["engine", "front end", "client", ""]

_GROWTH = 4.0  # a slow start's step by rate alone: each takes two rounds of answers
_GROWTH_PAYS = 0.35  # share of it that must come out as rate for the next one
_STEP_PAYS = 0.2  # the same for a probe up to be kept, and for a probe down to be taken back
_ALL_OF_IT = 0.6  # share from which on a step up means a server with much more room
_UP = 1.2  # size of a probe up
_DOWN = (0.5, 0.7, 0.85)  # sizes of probes down: finer once a coarse one has cost rate
_QUEUED = (0.4, 0.8)  # share of the first limit, and of later ones, that do it if the rest queues
_USED = 0.8  # share of the limit that must be in flight for a look to say anything of it
_CALM = 2.0  # seconds after a cut in which further refusals say nothing new
_PATIENCE = (4, 10)  # looks between two probes: first, and after many in vain


class State(Enum):
    """What the limit is about."""

    SLOW_START = "slow start"
    HOLD = "hold"
    PROBE_UP = "probe up"
    PROBE_DOWN = "probe down"


# Polls of the gauges that a look must hold, where there are any.
_POLLS = {State.SLOW_START: 0, State.HOLD: 3, State.PROBE_UP: 2, State.PROBE_DOWN: 0}


class Limit:
    """The limit of one endpoint; the caller reports what happens and reads `value`.

    Attributes:
        value: Most requests in flight.
        rate: Answers per second of late.
        wait: What holds the endpoint back: its engine, its front end, this client, or not known.
        changes: The last changes.
    """

    def __init__(self, options: LimitOptions | None = None) -> None:
        self.options = options or LimitOptions()
        self.changes: deque[Change] = deque(maxlen=100)
        self.wait: Wait = ""
        self.rate = 0.0
        self.value = self.options.first
        self._answers = self._taken = 0  # so far; of these, those whose place is taken
        self._calm_until = -math.inf
        self._gauges = Gauges()
        self._restart()

    def on_sent(self, now: float) -> Sent:
        """A request goes out; what to hand to `on_answer`."""
        place, self._taken = self._answers > self._taken, self._answers
        return Sent(now, self._answers if place else -1)

    def on_answer(self, now: float, sent: Sent, in_flight: int) -> None:
        """A whole answer came to what was sent; `in_flight` still counts it."""
        self._answers += 1
        if not self._look.add(now, self._answers, sent, in_flight):
            return
        seen = self._look
        self.rate = seen.rate
        if seen.in_flight < _USED * self.value:
            self.wait = "client"
            self._back(now, "the limit is not used")
            return
        if self.wait == "client":
            self.wait = ""
        if self._gauges.fresh(now) and self._gauges.polls < _POLLS[self.state]:
            seen.need = seen.count + self.value  # answers are faster than polls
            return
        match self.state:
            case State.SLOW_START:
                self._slow_start(now, seen)
            case State.HOLD:
                self._hold(now, seen)
            case State.PROBE_UP:
                self._probe_up(now, seen)
            case State.PROBE_DOWN:
                self._probe_down(now, seen)

    def on_full(self, now: float, pause: float | None = None) -> None:
        """The server refused a request as too many; `pause` are the seconds it asked for."""
        if now < self._calm_until:
            return
        self._calm_until = now + max(_CALM, pause or 0.0)
        self.wait = "engine"
        if self.state is State.PROBE_UP and self._held < self.value:
            self._back(now, "the server refuses more")
        else:
            self._settle(now, 0.8 * self.value, "the server says it is full")

    def on_load(self, now: float, running: float, waiting: float, in_flight: int) -> None:
        """What the server's metrics say: requests being worked on and queued, whoever sent them."""
        gauges = self._gauges
        gauges.add(now, running, waiting, in_flight)
        if gauges.front_end or gauges.full:
            self.wait = self._blamed(now)
        if self.is_starting and gauges.room and in_flight >= _USED * self.value:
            # The gauges need no round of answers, which at a GPU takes many seconds.
            self._step(now, 2.0 * self.value, State.SLOW_START, "nothing waits at the server")
            return
        if not gauges.full or now < self._calm_until:
            return
        target = gauges.own_share(in_flight, self.options.sharers)
        if target < self.value:
            self._calm_until = now + _CALM
            self._depth = len(_DOWN)
            why = f"{waiting:.0f} requests wait at the server while {running:.0f} run"
            self._settle(now, target, why)

    @property
    def is_starting(self) -> bool:
        """Whether it still looks for its size, below its ceiling."""
        return self.state is State.SLOW_START and self.value < self.options.most

    def on_back(self, now: float) -> None:
        """The server was down and is back: nothing known of it holds any longer."""
        self._set(now, self.options.first, "it was down and is back")
        self._calm_until = -math.inf
        self._restart()

    def _restart(self) -> None:
        self.state = State.SLOW_START
        self._known = Look()  # what was seen at the limit compared with
        self._held = self.value  # the limit to come back to after a probe
        self._depth = 0  # how fine the next probe down is; past the last: none is due
        self._starts = False  # whether a probe down stands within a slow start
        self._kept = 0  # probes up in a row that were kept
        self._patience, self._calm_looks, self._probes = _PATIENCE[0], 0, 0
        self._gauges.forget()
        self._watch()

    # The states: what a whole look leads to.

    def _slow_start(self, now: float, seen: Look) -> None:
        known = self._known
        first = not known.count
        share, error = gain(known, seen)
        if self._gauges.room:  # the engine says so itself: no proof by the rate is needed
            share += error
        alone = seen.least if first else known.latency
        needed = (SLACK + 0.25 * noise(known, seen)) * seen.rate * alone
        some = first or _GROWTH_PAYS <= share < _ALL_OF_IT
        if some and not self._gauges.polls and needed < _QUEUED[not first] * self.value:
            self._known, self._held, self._starts = seen, self.value, True
            self._step(now, needed, State.PROBE_DOWN, "do the last ones queue?")
        elif share >= _GROWTH_PAYS:
            self._depth = 0 if first else 2
            self._known = seen
            if self.value < self.options.most:
                self._step(now, _GROWTH * self.value, State.SLOW_START, "the rate follows")
            else:
                self._depth = 0 if first else len(_DOWN)
                self._settle(now, self.value, "")
        elif share + error >= _GROWTH_PAYS and seen.count < max(24, 2 * self.value):
            seen.need = 1.5 * seen.count
        else:
            self.wait = self._blamed(now)
            why = f"{seen.in_flight:.0f} in flight give {seen.rate:.3g} answers/s"
            self._settle(now, min(self.value, needed), why)

    def _hold(self, now: float, seen: Look) -> None:
        known = self._known
        if not known.count:
            self._known = seen
        elif turned(known, seen):  # half of this look may be from before
            self._known = Look()
            self._patience, self._calm_looks = _PATIENCE[0], 0
            self._depth = 0 if seen.latency > known.latency else self._depth
            self._watch(skip=self.value)
            return
        else:
            known.pool(seen)
        self._calm_looks += 1
        rule = self._gauges.fresh(now) and not self._gauges.front_end
        sure = self._known.count >= answers_for(self._known, self.value, _DOWN[min(self._depth, 2)])
        if self._depth < len(_DOWN) and sure and self.value > self.options.floor and not rule:
            self._probe(now, _DOWN[self._depth])
        elif self._calm_looks >= self._patience:
            self._patience = min(self._patience + 2, _PATIENCE[1])
            self._probes += 1
            self._probe(now, _DOWN[-1] if self._probes % 3 == 0 and not rule else _UP)
        else:
            self._watch()

    def _probe(self, now: float, step: float) -> None:
        self._calm_looks = 0
        state = State.PROBE_UP if step > 1 else State.PROBE_DOWN
        blind = step > 1 and self.options.sharers > 1 and not self._gauges.polls
        if blind or self.value == (self.options.most if step > 1 else self.options.floor):
            self._watch()
        else:
            why = "is more faster?" if step > 1 else "is less as fast?"
            self._step(now, stepped(self._known, self.value, step), state, why)

    def _probe_up(self, now: float, seen: Look) -> None:
        share, error = gain(self._known, seen)
        if self._doubtful(share, error, seen):
            return
        if share - (0.0 if self._gauges.room else 2 * error) < _STEP_PAYS:
            self.wait = self._blamed(now)
            self._back(now, "more is no faster")
            return
        self.wait = ""
        self._known, self._patience = seen, _PATIENCE[0]
        self._kept += 1
        if self._kept > 1 and share >= _ALL_OF_IT and self.value < self.options.most:
            self._step(now, 2.0 * self.value, State.SLOW_START, "there is room for more")
        elif self.value < self.options.most:
            self._held = self.value
            higher = stepped(seen, self.value, _UP)
            self._step(now, higher, State.PROBE_UP, "more was faster")
        else:
            self._settle(now, self.value, "")

    def _probe_down(self, now: float, seen: Look) -> None:
        full = self._known
        share, error = gain(seen, full)
        if self._doubtful(share, error, seen):
            return
        if share >= _STEP_PAYS:
            if self._starts:
                self._step(now, _GROWTH * self._held, State.SLOW_START, "less is slower")
            else:
                fine = self._held - self.value <= max(1, 0.15 * self._held)
                self._depth = len(_DOWN) if fine else self._depth + 1
                self._back(now, "less is slower")
        else:
            needed = max(self.value, min(self._held, 1.05 * full.rate * seen.latency))
            self._depth = 2 if needed > 1.1 * self.value else self._depth  # nothing waits with less
            self._settle(now, needed, "less is as fast")
        self._starts = False

    # The moves.

    def _doubtful(self, share: float, error: float, seen: Look) -> bool:
        """Looks on where noise may have decided."""
        beyond = share - _STEP_PAYS
        # Less in flight that seems slower costs while it is looked at.
        doubt = -error < beyond < (2 * error if self.state is State.PROBE_UP else min(error, 0.3))
        if self._gauges.room or not doubt or seen.count >= self._known.count:
            return False
        seen.need = 2 * seen.count
        return True

    def _watch(self, need: float = 0.0, skip: float = 0.0) -> None:
        """Looks anew, at requests sent from now or so many answers later."""
        self._look = Look(self._answers + skip, need or max(self.value, 4))

    def _blamed(self, now: float) -> Wait:
        """What is full where more in flight is no faster: an engine lets requests wait."""
        gauges = self._gauges
        if not gauges.fresh(now) or gauges.waits:
            return "engine"
        return "front end" if gauges.lost > 0.08 else ""

    def _step(self, now: float, value: float, state: State, why: str) -> None:
        if state is not State.SLOW_START and self.state is State.HOLD:
            self._held = self.value
        old = self.value
        self._set(now, value, f"{state.value}: {why}")
        self.state = state
        step = max(self.value / old, old / self.value, 1.05)
        starts = state is State.SLOW_START
        self._watch(0 if starts else answers_for(self._known, self.value, step))

    def _settle(self, now: float, value: float, why: str) -> None:
        """Holds a new limit, of which nothing is known yet."""
        self._set(now, value, why)
        self.state, self._held, self._known = State.HOLD, self.value, Look()
        self._calm_looks = self._kept = 0
        self._watch()

    def _back(self, now: float, why: str) -> None:
        """Ends a probe without gain."""
        self._kept = 0
        if self.state in (State.PROBE_UP, State.PROBE_DOWN):
            self._set(now, self._held, why)
            self.state = State.HOLD
        self._watch()

    def _set(self, now: float, value: float, why: str) -> None:
        new = min(max(round(value), self.options.floor), self.options.most)
        if new != self.value:
            self._gauges.forget()
            self.changes.append(Change(now, self.value, new, why))
            self.value = new
