"""How far the servers are, and so in which form pictures travel to them.

A picture of 384 x 384 is 442 KB without loss and some 60 KB as JPEG, 590 and 80 in base64. Without
loss is better and cheaper to make and to read, wherever the way there carries it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from joycap_vllm.fleet.endpoint import Endpoint

Form = Literal["bmp", "png0", "jpeg"]
NEAR = 25e6  # bytes/s over one connection: some 40 lossless pictures a second
_LOAD = 600_000  # bytes, as much as a lossless picture takes
_DEADLINE = 1.0  # seconds for a whole measurement


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is.

    Args:
        url: Its base URL.
        vllm: Whether it is a vLLM, which reads more forms than others.
        loopback: Whether it is on this machine.
        rate: Bytes per second that an upload carries; None where it was not found out.
    """

    url: str
    vllm: bool
    loopback: bool
    rate: float | None = None

    @property
    def near(self) -> bool:
        """Whether the way there carries pictures without loss."""
        return self.loopback or (self.rate is not None and self.rate >= NEAR)


async def find_places(endpoints: Sequence[Endpoint]) -> list[Place]:
    """Where endpoints are, each probed already; those elsewhere are measured, for a second."""
    rates = await asyncio.gather(*(_rate(endpoint) for endpoint in endpoints))
    return [
        Place(e.url, e.abilities.vllm is not None, e.loopback, rate)
        for e, rate in zip(endpoints, rates, strict=True)
    ]


def form_for(places: Sequence[Place], *, others: bool = False) -> tuple[Form, str]:
    """The form that all servers read and the slowest way carries, and why, in words.

    Args:
        places: Where the servers are.
        others: Whether more may join later, which may be of any kind.
    """
    slow = [place for place in places if not place.near]
    if slow:
        worst = min(slow, key=lambda place: place.rate or 0.0)
        if worst.rate is None:
            why = f"how much an upload to {worst.url} carries could not be measured"
        else:
            why = f"an upload to {worst.url} carries {worst.rate / 1e6:.1f} MB/s"
        return "jpeg", f"pictures travel as JPEG of quality 95: {why} (--wire png loses nothing)"
    form: Form = "bmp" if all(place.vllm for place in places) and not others else "png0"
    rates = [place.rate for place in places if place.rate is not None and not place.loopback]
    least = f"carry {min(rates) / 1e6:.0f} MB/s at least" if rates else "stay on this machine"
    return form, f"pictures travel without loss, as {form}: uploads {least}"


async def measure(endpoint: Endpoint) -> float | None:
    """Bytes per second that one upload to an endpoint carries; None where it does not show.

    What is sent is a JSON string without its end, so a server reads all of it, refuses it, and has
    done no work. It never fails, and takes a second at most.
    """
    best: float | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DEADLINE):
            if await _seconds(endpoint, 1) is None:  # which also opens the connection
                return None
            empty = await _seconds(endpoint, 1)
            for _ in range(2):  # the second upload finds the connection at speed
                full = await _seconds(endpoint, _LOAD)
                if empty is None or full is None:
                    return best
                best = max(best or 0.0, _LOAD / max(full - empty, 1e-4))
    return best


async def _rate(endpoint: Endpoint) -> float | None:
    return None if endpoint.loopback else await measure(endpoint)


async def _seconds(endpoint: Endpoint, size: int) -> float | None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    refused = await endpoint.refuses(b'"' + b"-" * size)
    return loop.time() - start if refused else None
