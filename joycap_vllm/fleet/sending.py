"""Requests that are out; at the end of a job, those that take far too long are sent twice.

The first answer wins and the other connection is closed, which frees its server. A second request
is sent only while nothing waits, so that it takes no one's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from joycap_vllm.errors import (
    FullError,
    ImageError,
    NoEndpointError,
    RequestError,
    TransportError,
)
from joycap_vllm.fleet.body import Body
from joycap_vllm.fleet.dispatch import Dispatch
from joycap_vllm.fleet.endpoint import Endpoint
from joycap_vllm.fleet.places import Member, Ticket
from joycap_vllm.fleet.station import MakeBody, Reply, Station, time

_LATE = (1.0, 2.0)  # seconds at least, and times the 95th percentile, that make a request late
_LOOK = 0.25  # seconds between two looks at what is out


@dataclass(eq=False, slots=True)
class Flight:
    """A request that is out.

    Args:
        home: Its image.
        make_body: Makes the request for an endpoint.
        body: What was sent first.
        station: Where.
        began: When.
        cut: Ends the first request once the second is answered.
    """

    home: str
    make_body: MakeBody
    body: Body
    station: Station
    began: float
    cut: asyncio.Timeout
    second: asyncio.Task[Reply | None] | None = None

    def body_for(self, endpoint: Endpoint) -> Body:
        """The same request for another endpoint: the same bytes, if that takes the same."""
        one, other = self.station.endpoint.abilities, endpoint.abilities
        same = (one.model, one.vllm, one.context) == (other.model, other.vllm, other.context)
        return self.body if same else self.make_body(endpoint)


class Sending:
    """Sends requests that have a place.

    Args:
        dispatch: Who gives places.
        stations: The endpoints.
        done: Gives a place back.
        keep: Begins work beside the requests.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        stations: Mapping[Member, Station],
        done: Callable[[Ticket], None],
        keep: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self.hedged = 0
        self._out: set[Flight] = set()
        self._dispatch = dispatch
        self._stations = stations
        self._done = done
        self._keep = keep

    async def send(self, ticket: Ticket, home: str, make_body: MakeBody) -> Reply:
        """The first answer to a request, wherever it comes from.

        Raises:
            As `Station.send`.
        """
        station = self._stations[ticket.at]
        body = make_body(station.endpoint)
        try:
            async with asyncio.timeout(None) as cut:
                flight = Flight(home, make_body, body, station, time(), cut)
                self._out.add(flight)
                try:
                    return await station.send(ticket, body)
                finally:
                    self._out.discard(flight)
        except (TimeoutError, TransportError, FullError):
            reply = None if flight.second is None else await flight.second
            if reply is None:
                raise
            return reply
        finally:
            if flight.second is not None:
                flight.second.cancel()

    async def watch_tail(self) -> None:
        """Sends again what is late, once each, for as long as it runs."""
        while True:
            if not self._dispatch.waiting:
                self._look(time())
            await asyncio.sleep(_LOOK)

    def _again(self, flight: Flight) -> bool:
        ticket = self._dispatch.take_spare(flight.home, flight.station.member, time())
        if ticket is None:
            return False
        flight.second = self._keep(self._second(flight, ticket, self._stations[ticket.at]))
        flight.second.add_done_callback(lambda _: self._done(ticket))
        return True

    async def _second(self, flight: Flight, ticket: Ticket, station: Station) -> Reply | None:
        """Its errors are no one's: the first request is still out, or has told its own."""
        try:
            reply = await station.send(ticket, flight.body_for(station.endpoint))
        except (RequestError, NoEndpointError, ImageError):
            return None
        if flight in self._out:
            flight.cut.reschedule(time())
        return reply

    def _look(self, now: float) -> None:
        late: dict[Station, float] = {}
        for flight in list(self._out):
            station = flight.station
            if flight.second is not None or now - flight.began < _LATE[0]:
                continue
            if station not in late:
                late[station] = self._late_after(station)
            if now - flight.began > late[station]:
                self.hedged += self._again(flight)

    def _late_after(self, station: Station) -> float:
        """Seconds after which a request there is late; where nothing was answered yet, by what
        the others do."""
        times = sorted(station.recent)
        if not times:
            others = {flight.station for flight in self._out} - {station}
            times = sorted(seconds for other in others for seconds in other.recent)
        if not times:
            return float("inf")
        return max(_LATE[0], _LATE[1] * times[ceil(0.95 * len(times)) - 1])
