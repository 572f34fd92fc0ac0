"""Who takes the next request: pure, without clock or I/O; no decision looks at every endpoint or
at everything that waits.

An image has a *seat*: the endpoint that its first request went to. While any task of the image is
under way, all its requests go there, where its prompt and its picture are in the caches. They wait
for that endpoint even if others have room, unless it is down, leaves or rests for long; then the
whole image moves. An image without a seat goes to its home by hash, if that has room, else to one
of the next few, else to the least full. If none has room it waits, and whoever has room first
takes it: no image without a seat waits while an endpoint idles.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping

from joycap_vllm.fleet.limits import Limit
from joycap_vllm.fleet.places import Member, Seat, Ticket
from joycap_vllm.fleet.routing import Routing, slot_of, weights_for

MOST_TOGETHER = 64  # tasks of one image that are kept together; far more are one key used for all
_BUSY = 0.8  # share of all limits that is in use before rates say how fast endpoints are
_ROOM = 1.25  # a member's part of a total over its share of all weights: images keep their homes


class Dispatch:
    """Requests to members, within every limit.

    Args:
        total: Most requests in flight over all members, shared out by their weights where their
            limits are more; None leaves it to their limits.
        placed: Told each ticket that had to wait and is taken now.
    """

    def __init__(self, placed: Callable[[Ticket], None], *, total: int | None = None) -> None:
        self.members: dict[str, Member] = {}
        self.in_flight = 0
        self.waiting = 0
        self.routing = Routing()
        self._total = total
        self._placed = placed
        self._seats: dict[str, Seat] = {}
        self._homeless: tuple[deque[Seat], deque[Seat]] = (deque(), deque())  # have no seat yet
        self._gate: tuple[deque[Ticket], deque[Ticket]] = (deque(), deque())  # the total is used up
        self._ready: deque[Member] = deque()
        self._spare: list[tuple[float, int, Member]] = []
        self._count = itertools.count()

    def join(self, name: str, limit: Limit, now: float) -> Member:
        """A new member, which takes work at once."""
        member = self.members[name] = Member(name, limit)
        self._weigh({**self.routing.weights, name: 1.0})
        self.wake(member, now)
        return member

    def leave(self, member: Member, now: float) -> None:
        """Gives it nothing new; what it has in flight may end."""
        member.leaving = True
        if self.members.get(member.name) is member:
            del self.members[member.name]
            weights = self.routing.weights
            self._weigh({n: w for n, w in weights.items() if n != member.name})
        self._clear(member, now)

    def down(self, member: Member, why: str, now: float) -> None:
        """Gives it nothing until it is up again; the images that wait for it move."""
        member.down_why = why
        self._share_out()
        self._clear(member, now)

    def up(self, member: Member, now: float) -> None:
        """It is well again."""
        member.down_why = ""
        member.limit.on_back(now)
        self._share_out()
        self.wake(member, now)

    def rest(self, member: Member, until: float, now: float) -> None:
        """Gives it nothing until a moment; `wake` it then."""
        member.rests_until = max(member.rests_until, until)
        if not member.is_worth_waiting_for(now):
            self._clear(member, now)

    def wake(self, member: Member, now: float) -> None:
        """It may have room: its rest is over, or its limit has grown."""
        self._make_ready(member)
        self._fill(now)

    def reweigh(self) -> None:
        """Lets the weights follow the members' rates, if all are busy enough to tell."""
        members = self.members
        all_limits = sum(member.limit.value for member in members.values())
        weights = self.routing.weights
        if self.in_flight >= _BUSY * min(all_limits, self._total or all_limits):
            rates = {name: m.limit.rate for name, m in members.items() if not m.down_why}
            weights = {**weights, **weights_for(rates, weights)}
        self._weigh(weights)

    def _weigh(self, weights: Mapping[str, float]) -> None:
        self.routing.set_weights(weights)
        self._share_out()

    def _share_out(self) -> None:
        """Gives each member a part of the total, so that what is in flight does not gather at slow
        ones, where room would be all that it is given for; none where the limits are no more."""
        if self._total is None:
            return
        weights = {m: self.routing.weights[m.name] for m in self.members.values() if not m.down_why}
        whole = sum(weights.values())
        is_short = sum(member.limit.value for member in weights) > self._total
        for member, weight in weights.items():
            part = math.ceil(_ROOM * self._total * weight / whole)
            member.most = part if is_short else math.inf
            self._make_ready(member)

    def seat(self, home: str) -> None:
        """A task of this image begins."""
        seat = self._seats.get(home)
        if seat is None:
            seat = self._seats[home] = Seat(slot_of(home))
        seat.tasks += 1

    def unseat(self, home: str) -> None:
        """A task of this image has ended."""
        seat = self._seats[home]
        seat.tasks -= 1
        if not seat.tasks:
            del self._seats[home]

    def ask(self, home: str, now: float, *, first: bool = False) -> Ticket:
        """A request about an image; it is taken at once, or waits: see `Ticket.member`."""
        seat = self._seats.get(home)
        if seat is None or seat.tasks > MOST_TOGETHER:
            seat = Seat(slot_of(home))
        ticket = Ticket(seat, first)
        self._offer(ticket, now)
        return ticket

    def done(self, ticket: Ticket, now: float) -> None:
        """A request ended, or its caller no longer waits."""
        member, ticket.member = ticket.member, None
        if member is None:
            self._withdraw(ticket)
            return
        member.in_flight -= 1
        self.in_flight -= 1
        self._make_ready(member)
        self._fill(now)

    def take_spare(self, home: str, other: Member, now: float) -> Ticket | None:
        """A second place for a request that `other` works on, at another member with room; at
        the same one only if it is the only one. None where there is no room or others wait."""
        if self.waiting or (self._total is not None and self.in_flight >= self._total):
            return None
        members = [*self.members.values()]
        open_ = (m for m in members if (m is not other or len(members) == 1) and m.has_room(now))
        member = min(open_, key=lambda m: m.share, default=None)
        if member is None:
            return None
        ticket = Ticket(Seat(slot_of(home)), first=True)
        self._take(ticket, member, now)
        return ticket

    def refused(self, ticket: Ticket, now: float) -> None:
        """Its member had no room after all; an image with nothing in the caches there moves."""
        seat = ticket.seat
        if not seat.is_warm and seat.member is ticket.member:
            self._move(seat, now)

    def answered(self, ticket: Ticket) -> None:
        """Its image is in the member's caches from now on."""
        ticket.seat.is_warm = True

    def _offer(self, ticket: Ticket, now: float) -> None:
        seat = ticket.seat
        if self._total is not None and self.in_flight >= self._total:
            ticket.at_gate = True
            self._gate[not ticket.first].append(ticket)
            self._wait(ticket)
            return
        member = seat.member
        if member is not None and not member.is_worth_waiting_for(now):
            member, seat.member, seat.is_warm = None, None, False
        if member is None:
            if not seat.waits:
                member = seat.member = self._choose(seat.slot, now)
            if member is None:
                self._queue_homeless(ticket, now)
                return
            self._take(ticket, member, now)
        elif member.has_room(now):
            self._take(ticket, member, now)
        else:
            member.own[not ticket.first].append(seat)
            seat.waiting[not ticket.first].append(ticket)
            self._wait(ticket)

    def _choose(self, slot: int, now: float) -> Member | None:
        """Who has room: the home, one of the next few, or the least full."""
        members = self.members
        for name in self.routing.order(slot):
            member = members[name]
            if member.has_room(now):
                return member
        spare = self._spare
        while spare:
            share, _, member = spare[0]
            if not member.has_room(now):
                heapq.heappop(spare)  # it comes back when it has room again
            elif member.share > share:
                heapq.heapreplace(spare, (member.share, next(self._count), member))
            else:
                return member
        return None

    def _queue_homeless(self, ticket: Ticket, now: float) -> None:
        seat, level = ticket.seat, not ticket.first
        if not seat.waits or ticket.first:
            _push(self._homeless[level], seat, self.waiting)
        if not seat.waits:
            self._queue_at_home(seat, now)
        seat.waiting[level].append(ticket)
        self._wait(ticket)

    def _queue_at_home(self, seat: Seat, now: float) -> None:
        for name in self.routing.order(seat.slot):
            member = self.members[name]
            if member.is_worth_waiting_for(now):
                _push(member.homes, seat, self.waiting)
                return

    def _wait(self, ticket: Ticket) -> None:
        ticket.has_waited = True
        self.waiting += 1

    def _withdraw(self, ticket: Ticket) -> None:
        line = self._gate if ticket.at_gate else ticket.seat.waiting
        try:
            line[not ticket.first].remove(ticket)
        except ValueError:
            return  # it was done before
        self.waiting -= 1

    def _take(self, ticket: Ticket, member: Member, now: float) -> None:
        ticket.member = member
        member.in_flight += 1
        self.in_flight += 1
        ticket.sent = member.limit.on_sent(now)
        if ticket.has_waited:
            self._placed(ticket)

    def _make_ready(self, member: Member) -> None:
        if not member.is_ready:
            member.is_ready = True
            self._ready.append(member)

    def _fill(self, now: float) -> None:
        """Gives work to whoever may have room, in turns."""
        total = self._total
        while self._ready and (total is None or self.in_flight < total):
            member = self._ready.popleft()
            member.is_ready = False
            if not member.has_room(now):
                continue
            seat = self._next_for(member)
            if seat is None:
                self._note_spare(member)
                continue
            self.waiting -= 1
            self._take(seat.pop(), member, now)
            self._make_ready(member)
        while (self._gate[0] or self._gate[1]) and self.in_flight < (total or 0):
            ticket = (self._gate[0] or self._gate[1]).popleft()
            ticket.at_gate = False
            self.waiting -= 1
            self._offer(ticket, now)

    def _next_for(self, member: Member) -> Seat | None:
        """The seat whose request it takes next: its own, then moved retries, then by home."""
        for line in member.own:
            while line:
                seat = line.popleft()
                if seat.member is member and seat.waits:
                    return seat
        for line in (self._homeless[0], member.homes, self._homeless[1]):
            while line:
                seat = line.popleft()
                if seat.member is None and seat.waits:
                    seat.member = member
                    for level in (0, 1):
                        member.own[level].extend([seat] * len(seat.waiting[level]))
                    return seat
        return None

    def _note_spare(self, member: Member) -> None:
        if len(self._spare) > 4 * len(self.members) + 64:
            kept = {id(m): m for _, _, m in self._spare}.values()
            self._spare = [(m.share, next(self._count), m) for m in kept]
            heapq.heapify(self._spare)
        heapq.heappush(self._spare, (member.share, next(self._count), member))

    def _clear(self, member: Member, now: float) -> None:
        """Sends those that wait for it elsewhere."""
        seats = [s for line in member.own for s in line if s.member is member and s.waits]
        homes = [s for s in member.homes if s.member is None and s.waits]
        for line in (*member.own, member.homes):
            line.clear()
        for seat in dict.fromkeys(seats):
            self._move(seat, now)
        for seat in homes:
            self._queue_at_home(seat, now)

    def _move(self, seat: Seat, now: float) -> None:
        seat.member, seat.is_warm = None, False
        tickets = [*seat.waiting[0], *seat.waiting[1]]
        for line in seat.waiting:
            line.clear()
        self.waiting -= len(tickets)
        for ticket in tickets:
            self._offer(ticket, now)


def _push(line: deque[Seat], seat: Seat, waiting: int) -> None:
    """Appends; those that others have taken since are dropped once they are the most."""
    if len(line) > 2 * waiting + 64:
        live = [s for s in line if s.member is None and s.waits]
        line.clear()
        line.extend(live)
    line.append(seat)
