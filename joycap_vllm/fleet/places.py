"""What a dispatch deals in: members, the seats that images have there, and requests' tickets."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from joycap_vllm.fleet.limits import Limit
from joycap_vllm.fleet.look import Sent

_NOT_YET = Sent(0.0, -1)
LONG_REST = 5.0  # seconds of rest that images do not wait for


@dataclass(eq=False, slots=True)
class Member:
    """An endpoint, as far as it matters for who takes the next request."""

    name: str
    limit: Limit
    most: float = math.inf  # its part of a total over all members
    in_flight: int = 0
    rests_until: float = 0.0
    down_why: str = ""
    leaving: bool = False
    is_ready: bool = False  # stands in the line of those to be given work
    own: tuple[deque[Seat], deque[Seat]] = field(default_factory=lambda: (deque(), deque()))
    homes: deque[Seat] = field(default_factory=deque)

    def has_room(self, now: float) -> bool:
        """Whether it takes one more request at this moment."""
        return (
            self.in_flight < self.limit.value
            and self.in_flight < self.most
            and self.rests_until <= now
            and not self.down_why
            and not self.leaving
        )

    @property
    def share(self) -> float:
        """How full it is, from 0."""
        return self.in_flight / self.limit.value

    def is_worth_waiting_for(self, now: float) -> bool:
        """Whether images that sit here stay."""
        return not self.down_why and not self.leaving and self.rests_until - now <= LONG_REST


@dataclass(eq=False, slots=True)
class Seat:
    """An image's place: where its requests go, and those that wait."""

    slot: int
    tasks: int = 0
    member: Member | None = None
    is_warm: bool = False  # something of it was answered there
    waiting: tuple[list[Ticket], list[Ticket]] = field(default_factory=lambda: ([], []))

    @property
    def waits(self) -> bool:
        """Whether any request waits."""
        return bool(self.waiting[0] or self.waiting[1])

    def pop(self) -> Ticket:
        """The next of those that wait, retries first."""
        return (self.waiting[0] or self.waiting[1]).pop(0)  # they are few


@dataclass(eq=False, slots=True)
class Ticket:
    """A request: `member` is who has taken it, None while it waits and once it is done."""

    seat: Seat
    first: bool
    member: Member | None = None
    has_waited: bool = False
    at_gate: bool = False
    sent: Sent = _NOT_YET  # for its member's limit
    waiter: object = None  # the caller's own

    @property
    def at(self) -> Member:
        """Who has taken it.

        Raises:
            RuntimeError: It waits, or is done.
        """
        if self.member is None:
            raise RuntimeError("this request has no place")
        return self.member
