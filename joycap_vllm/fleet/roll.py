"""Who belongs to a fleet: endpoints are proved before they get work, and come and go by a listing.

Those that a listing no longer names end what they have in flight and get nothing new; those that
did not pass are looked at again and again, since servers take their time to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from joycap_vllm.errors import NoEndpointError
from joycap_vllm.fleet.discovery import Listing
from joycap_vllm.fleet.endpoint import CONNECTIONS, Endpoint
from joycap_vllm.fleet.fleet import Fleet
from joycap_vllm.fleet.proof import Proof, prove_endpoint, require, shown
from joycap_vllm.fleet.station import time

LOOK = 2.0  # seconds between two looks at a listing
_AT_ONCE = 128
_AGAIN = 15.0  # seconds until an endpoint that did not pass is looked at again


@dataclass(frozen=True, slots=True)
class Entry:
    """What an endpoint has to show.

    Args:
        model: Name to ask for; None takes what it lists.
        api_key: Its key.
        check: Whether it gets a test picture.
        connections: Most connections to it at once.
        gate: How many are looked at at once: more would wait for each other until they time out.
    """

    model: str | None = None
    api_key: str | None = None
    check: bool = True
    connections: int = CONNECTIONS
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def proof(self, endpoint: Endpoint) -> Proof:
        """What an endpoint showed."""
        async with self.gate:
            return await self._proof(endpoint)

    async def _proof(self, endpoint: Endpoint) -> Proof:
        try:
            await endpoint.probe(self.model)
            if self.check:
                return await prove_endpoint(endpoint)
        except NoEndpointError as error:
            return Proof(endpoint.url, False, (str(error),), "")
        return Proof(endpoint.url, True, (), endpoint.abilities.model)

    def endpoint(self, url: str) -> Endpoint:
        """An endpoint, not asked yet."""
        return Endpoint(url, api_key=self.api_key, connections=self.connections)


async def usable(urls: Sequence[str], entry: Entry) -> tuple[list[Endpoint], list[Proof]]:
    """The endpoints that pass, and what the others showed.

    Raises:
        NoEndpointError: None passes.
    """
    endpoints = [entry.endpoint(url) for url in urls]
    try:
        proofs = await asyncio.gather(*(entry.proof(endpoint) for endpoint in endpoints))
        good = [e for e, proof in zip(endpoints, proofs, strict=True) if proof.ok]
        if not good:
            require(proofs)
    except BaseException:
        await asyncio.gather(*(endpoint.close() for endpoint in endpoints))
        raise
    await asyncio.gather(*(e.close() for e in endpoints if e not in good))
    return good, [proof for proof in proofs if not proof.ok]


def notes_on(good: Sequence[Endpoint], left_out: Sequence[Proof]) -> list[str]:
    """What users should know of the endpoints that pass, and of the others."""
    told = shown([_left_out(proof) for proof in left_out])
    models = dict.fromkeys(endpoint.abilities.model for endpoint in good)
    if len(models) > 1:
        named = ", ".join(models)
        told.append(f"the endpoints serve different models ({named}); --model NAME asks for one")
    return told


class Roll:
    """Lets endpoints join and leave a fleet as a listing names them.

    Args:
        fleet: The fleet.
        listing: What is looked at; None names no more than `always`.
        entry: What an endpoint has to show before it joins.
        always: Endpoints that are named, whatever the listing says.
        left_out: What those showed that have not passed so far.
        look: Seconds between two looks.
    """

    def __init__(
        self,
        fleet: Fleet,
        listing: Listing | None,
        entry: Entry,
        *,
        always: Sequence[str] = (),
        left_out: Sequence[Proof] = (),
        look: float = LOOK,
    ) -> None:
        self._fleet = fleet
        self._listing = listing
        self._entry = entry
        self._always = frozenset(always)
        self._look = look
        self._problem = "" if listing is None else listing.problem
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._told = {proof.url: proof.why for proof in left_out}
        self._not_before: dict[str, float] = {}

    async def follow(self) -> None:
        """Looks at the listing for as long as it runs."""
        self._not_before = dict.fromkeys(self._told, time() + _AGAIN)
        try:
            while True:
                await asyncio.sleep(self._look)
                self._apply(self._always | await self._named())
        finally:
            for task in self._joining.values():
                task.cancel()
            await asyncio.gather(*self._joining.values(), return_exceptions=True)

    async def _named(self) -> frozenset[str]:
        listing = self._listing
        if listing is None:
            return frozenset()
        urls = await listing.look()
        if listing.problem and listing.problem != self._problem:
            told = f"{listing.problem}; the {len(urls)} endpoints named before stay"
            self._fleet.news.append(told)
        self._problem = listing.problem
        return frozenset(urls)

    def _apply(self, wanted: frozenset[str]) -> None:
        have = {station.endpoint.url for station in self._fleet.members}
        for url in have - wanted:
            self._fleet.leave(url)
            self._fleet.news.append(f"{url} is no longer listed: it ends what it has begun")
        for url in self._joining.keys() - wanted:
            self._joining[url].cancel()
        for url in self._not_before.keys() - wanted:
            del self._not_before[url]  # if it comes back it is looked at at once
            self._told.pop(url, None)
        now = time()
        for url in wanted - have - self._joining.keys():
            if now >= self._not_before.get(url, 0.0):
                self._joining[url] = asyncio.create_task(self._join(url), name=url)
                self._joining[url].add_done_callback(lambda t: self._joining.pop(t.get_name()))

    async def _join(self, url: str) -> None:
        endpoint, joined = self._entry.endpoint(url), False
        try:
            proof = await self._entry.proof(endpoint)
            if proof.ok:
                others = {station.endpoint.abilities.model for station in self._fleet.members}
                self._fleet.join(endpoint)
                joined = True
                self._not_before.pop(url, None)
                self._told.pop(url, None)
                odd = others and proof.model not in others
                what = f" with another model, {proof.model}" if odd else ""
                self._fleet.news.append(f"{url} joins{what}")
                return
            self._not_before[url] = time() + _AGAIN
            if self._told.get(url) != proof.why:
                self._told[url] = proof.why
                self._fleet.news.append(_left_out(proof))
        finally:
            if not joined:
                await endpoint.close()


def _left_out(proof: Proof) -> str:
    return f"{proof.url} is left out: {proof.why}; it is looked at again"
