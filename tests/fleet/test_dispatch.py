"""Who takes the next request: pure, so time is a number and limits are set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from joycap_vllm.fleet import Limit, LimitOptions
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.places import LONG_REST, Member, Ticket
from joycap_vllm.fleet.routing import slot_of


def fixed(value: int) -> Limit:
    return Limit(LimitOptions(start=value, floor=value, ceiling=value))


class Desk:
    """A dispatch and all its tickets, in the order in which they were placed."""

    def __init__(self, *limits: int, total: int | None = None) -> None:
        self.order: list[Ticket] = []
        self.dispatch = Dispatch(self.order.append, total=total)
        self.members = [
            self.dispatch.join(f"m{n}", fixed(value), 0.0) for n, value in enumerate(limits)
        ]

    def ask(self, home: str, now: float = 0.0, *, first: bool = False) -> Ticket:
        ticket = self.dispatch.ask(home, now, first=first)
        if ticket.member is not None:
            self.order.append(ticket)
        return ticket

    def done(self, ticket: Ticket, now: float = 0.0) -> None:
        self.dispatch.done(ticket, now)

    @contextmanager
    def seats(self, *homes: str) -> Iterator[None]:
        for home in homes:
            self.dispatch.seat(home)
        yield
        for home in homes:
            self.dispatch.unseat(home)

    def homed_at(self, member: Member, count: int) -> list[str]:
        """Keys of images whose home it is."""
        keys = (f"image {n}" for n in range(10_000))
        routing = self.dispatch.routing
        found = [k for k in keys if routing.order(slot_of(k))[0] == member.name]
        return found[:count]


def keep_busy(desk: Desk, slow: Member, turns: int) -> None:
    """As many requests as the total allows all the time; those at `slow` never end."""
    asked = [desk.ask(f"picture {n}") for n in range(40)]
    for turn in range(turns):
        quick = next((t for t in asked if t.member not in (None, slow)), None)
        if quick is None:
            return
        desk.done(quick)
        asked.remove(quick)
        asked.append(desk.ask(f"later {turn}"))


def test_a_slow_endpoint_does_not_gather_the_whole_of_a_given_concurrency() -> None:
    desk = Desk(20, 20, total=20)
    quick, slow = desk.members
    keep_busy(desk, slow, 200)
    assert (slow.in_flight, quick.in_flight) == (13, 7), "a half and some room"

    quick.limit.rate, slow.limit.rate = 150.0, 10.0
    desk.dispatch.reweigh()
    assert (quick.most, slow.most) == (24, 2), "as fast as they are"


def test_a_given_concurrency_is_all_for_those_that_are_well() -> None:
    desk = Desk(20, 20, total=20)
    one, two = desk.members
    desk.dispatch.down(two, "dead", 0.0)
    for number in range(40):
        desk.ask(f"picture {number}")
    assert one.in_flight == 20
    desk.dispatch.up(two, 0.0)
    assert two.most == 13
    desk.dispatch.leave(two, 0.0)
    assert one.most >= 20


def test_an_image_goes_to_its_home_and_escapes_where_there_is_room_if_that_is_full() -> None:
    desk = Desk(2, 2)
    one, two = desk.members
    tickets = [desk.ask(home) for home in desk.homed_at(one, 5)]

    assert [t.member for t in tickets] == [one, one, two, two, None]


def test_all_requests_of_a_seated_image_wait_for_its_endpoint_though_others_have_room() -> None:
    desk = Desk(1, 4)
    small, large = desk.members
    (home,) = desk.homed_at(small, 1)
    with desk.seats(home):
        first, second, third = desk.ask(home), desk.ask(home), desk.ask(home)
        assert (first.member, second.member, third.member) == (small, None, None)
        desk.done(first)
        assert second.member is small
        desk.done(second)
        assert third.member is small
        desk.done(third)
    assert large.in_flight == 0


def test_tasks_of_an_image_that_waits_go_together_when_one_is_taken() -> None:
    desk = Desk(1, 1)
    one, two = desk.members
    busy = [desk.ask(desk.homed_at(one, 1)[0]), desk.ask(desk.homed_at(two, 1)[0])]
    with desk.seats("pair"):
        a, b = desk.ask("pair"), desk.ask("pair")
        desk.done(busy[1])
        assert (a.member, b.member) == (two, None)
        desk.done(busy[0])
        assert b.member is None
        desk.done(a)
        assert b.member is two
        desk.done(b)


def test_retries_go_first_at_their_endpoint_and_before_new_images() -> None:
    desk = Desk(1)
    with desk.seats("image"):
        running = desk.ask("image")
        later, new, retry = desk.ask("image"), desk.ask("new"), desk.ask("image", first=True)
        for ticket in (running, retry, later, new):
            assert ticket.member is not None
            desk.done(ticket)
    assert desk.order == [running, retry, later, new]


def test_an_endpoint_takes_images_whose_home_it_is_before_older_ones_of_others() -> None:
    desk = Desk(1, 1)
    one, two = desk.members
    at_one, at_two = desk.homed_at(one, 2), desk.homed_at(two, 2)
    busy = [desk.ask(at_one[0]), desk.ask(at_two[0])]
    older, younger = desk.ask(at_one[1]), desk.ask(at_two[1])
    desk.done(busy[1])
    assert (older.member, younger.member) == (None, two)
    desk.done(younger)
    assert older.member is two, "no image waits while an endpoint idles"


@pytest.mark.parametrize("how", ["down", "leave", "long rest"])
def test_an_image_moves_as_a_whole_when_its_endpoint_is_lost(how: str) -> None:
    desk = Desk(1, 1)
    one, two = desk.members
    (home,) = desk.homed_at(one, 1)
    with desk.seats(home):
        a, b, c = (desk.ask(home) for _ in range(3))
        if how == "down":
            desk.dispatch.down(one, "gone", 1.0)
        elif how == "leave":
            desk.dispatch.leave(one, 1.0)
        else:
            desk.dispatch.rest(one, 2.0 + LONG_REST, 1.0)
        assert (a.member, b.member, c.member) == (one, two, None)
        desk.done(a, 1.0)
        assert c.member is None
        desk.done(b, 1.0)
        assert c.member is two
        desk.done(c, 1.0)


def test_a_short_rest_is_waited_for() -> None:
    desk = Desk(2, 2)
    one, two = desk.members
    (home,) = desk.homed_at(one, 1)
    with desk.seats(home):
        a = desk.ask(home)
        desk.dispatch.rest(one, 1.0, 0.0)
        b = desk.ask(home)
        assert (b.member, two.in_flight) == (None, 0)
        desk.dispatch.wake(one, 1.0)
        assert b.member is one
        desk.done(a, 1.0)
        desk.done(b, 1.0)


def test_an_image_that_was_refused_before_anything_was_answered_goes_elsewhere() -> None:
    desk = Desk(2, 2)
    one, two = desk.members
    (home,) = desk.homed_at(one, 1)
    with desk.seats(home):
        ticket = desk.ask(home)
        desk.dispatch.refused(ticket, 0.0)
        desk.dispatch.rest(one, 1.0, 0.0)
        desk.done(ticket)
        again = desk.ask(home, first=True)
        assert again.member is two
        desk.dispatch.answered(again)
        desk.dispatch.refused(again, 0.0)
        desk.dispatch.rest(two, 1.0, 0.0)
        desk.done(again)
        assert desk.ask(home, first=True).member is None, "its picture is in the cache there"


def test_a_fixed_total_bounds_the_sum_and_shares_what_gets_free() -> None:
    desk = Desk(8, 8, total=4)
    tickets = [desk.ask(f"image {n}") for n in range(12)]
    assert desk.dispatch.in_flight == 4
    for ticket in tickets:
        assert ticket.member is not None
        desk.done(ticket)
        assert desk.dispatch.in_flight <= 4
    assert desk.order == tickets


def test_one_key_used_for_everything_does_not_bind_a_fleet_to_one_endpoint() -> None:
    desk = Desk(100, 100)
    with desk.seats(*["same"] * 150):
        tickets = [desk.ask("same") for _ in range(150)]
        assert {t.member for t in tickets} == set(desk.members)
        for ticket in tickets:
            desk.done(ticket)


def test_a_second_place_is_at_another_endpoint_and_only_while_nothing_waits() -> None:
    desk = Desk(1, 1)
    one, two = desk.members
    (home,) = desk.homed_at(one, 1)
    desk.ask(home)
    extra = desk.dispatch.take_spare(home, one, 0.0)
    assert extra is not None
    assert extra.member is two
    assert desk.dispatch.take_spare(home, one, 0.0) is None
    waits = desk.ask(home)
    desk.done(extra)
    assert waits.member is two


class Model(RuleBasedStateMachine):
    """Any order of events: nothing is lost, no limit broken, images stay together."""

    @initialize(total=st.none() | st.integers(1, 8))
    def begin(self, total: int | None) -> None:
        self.total = total
        self.dispatch = Dispatch(self._placed, total=total)
        self.now = 0.0
        self.live: list[Ticket] = []
        self.seated: dict[str, list[Ticket]] = {}
        self.names = 0
        self.told: list[Ticket] = []
        self.lost: list[Member] = []
        self.refused: set[str] = set()
        self._join(2)

    def _placed(self, ticket: Ticket) -> None:
        assert ticket.member is not None
        assert ticket not in self.told
        self.told.append(ticket)

    def _join(self, value: int) -> None:
        self.names += 1
        self.dispatch.join(f"m{self.names}", fixed(value), self.now)

    def _some(self, data: st.DataObject) -> Member | None:
        members = list(self.dispatch.members.values())
        return data.draw(st.sampled_from(members)) if members else None

    @rule(value=st.integers(1, 3))
    def join(self, value: int) -> None:
        if len(self.dispatch.members) < 5:
            self._join(value)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if (member := self._some(data)) is not None:
            self.dispatch.leave(member, self.now)
            self.lost.append(member)

    @rule(data=st.data())
    def down(self, data: st.DataObject) -> None:
        if (member := self._some(data)) is not None:
            self.dispatch.down(member, "gone", self.now)
            self.lost.append(member)

    @rule(data=st.data())
    def up(self, data: st.DataObject) -> None:
        if (member := self._some(data)) is not None and member.down_why:
            self.dispatch.up(member, self.now)

    @rule(data=st.data(), pause=st.floats(0.1, 20))
    def rest(self, data: st.DataObject, pause: float) -> None:
        if (member := self._some(data)) is not None:
            self.dispatch.rest(member, self.now + pause, self.now)
            if not member.is_worth_waiting_for(self.now):
                self.lost.append(member)

    @rule(seconds=st.floats(0.1, 10))
    def time_passes(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        for member in list(self.dispatch.members.values()):
            if before < member.rests_until <= self.now:
                self.dispatch.wake(member, self.now)

    @rule(image=st.integers(0, 6), seated=st.booleans(), first=st.booleans())
    def ask(self, image: int, seated: bool, first: bool) -> None:
        home = f"{'seated' if seated else 'free'} {image}"
        if seated and home not in self.seated:
            self.dispatch.seat(home)
            self.seated[home] = []
        ticket = self.dispatch.ask(home, self.now, first=first)
        self.live.append(ticket)
        if seated:
            self.seated[home].append(ticket)

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        if not self.live:
            return
        ticket = data.draw(st.sampled_from(self.live))
        self.live.remove(ticket)
        for home, tickets in list(self.seated.items()):
            if ticket in tickets:
                tickets.remove(ticket)
                if not tickets and data.draw(st.booleans()):
                    self.dispatch.unseat(home)
                    del self.seated[home]
        self.dispatch.done(ticket, self.now)

    @rule(data=st.data(), warm=st.booleans())
    def answered_or_refused(self, data: st.DataObject, warm: bool) -> None:
        placed = [ticket for ticket in self.live if ticket.member is not None]
        if not placed:
            return
        ticket = data.draw(st.sampled_from(placed))
        if warm:
            self.dispatch.answered(ticket)
        else:
            moves = not ticket.seat.is_warm
            self.dispatch.refused(ticket, self.now)
            self.refused |= {home for home in self.seated if moves and ticket in self.seated[home]}

    @invariant()
    def every_place_is_counted_and_no_limit_is_broken(self) -> None:
        placed = [t.member for t in self.live if t.member is not None]
        assert self.dispatch.in_flight == len(placed)
        assert self.total is None or len(placed) <= self.total
        assert self.dispatch.waiting == len(self.live) - len(placed)
        for member in self.dispatch.members.values():
            assert member.in_flight == placed.count(member) <= member.limit.value

    @invariant()
    def an_image_is_at_one_endpoint_unless_it_was_lost(self) -> None:
        for home, tickets in self.seated.items():
            if home in self.refused:
                continue
            at = {t.member.name for t in tickets if t.member and t.member not in self.lost}
            assert len(at) <= 1

    @invariant()
    def nothing_waits_while_there_is_room_for_it(self) -> None:
        if self.total is not None and self.dispatch.in_flight == self.total:
            return
        open_ = [m for m in self.dispatch.members.values() if m.has_room(self.now)]
        for ticket in self.live:
            if ticket.member is None and open_:
                sits_at = ticket.seat.member
                assert sits_at is not None
                assert sits_at not in open_
                assert sits_at.is_worth_waiting_for(self.now)


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = Model.TestCase
