"""The tail of a job: what takes far too long is sent a second time."""

from __future__ import annotations

import asyncio

import pytest

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet import Endpoint, Fleet, FleetOptions
from joycap_vllm.fleet.advice import ADVICE, Adviser, bottleneck

from .test_fleet import make_body
from fault_server import Asked, FaultServer, Reaction, fail, say, serving


class Stalling:
    """Answers at once, but for the request that it is told to stall."""

    def __init__(self, then: Reaction | None = None) -> None:
        self.stalls = False
        self.then = then or Reaction(hang=True)

    def __call__(self, _: Asked) -> Reaction:
        return self.then if self.stalls else say("a caption")


async def warm(fleet: Fleet) -> None:
    for number in range(8):
        await fleet.ask(str(number), make_body)


async def home_of(fleet: Fleet, server: FaultServer) -> str:
    """An image that goes to this server."""
    for number in range(100):
        if (await fleet.ask(f"image {number}", make_body)).endpoint == server.url:
            return f"image {number}"
    raise AssertionError("no image goes there")


async def test_a_straggler_is_sent_to_another_endpoint_and_its_connection_closed() -> None:
    stalling = Stalling()
    with serving(stalling) as one, serving() as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls = True
            before = len(two.asked)
            fleet.no_more()
            reply = await asyncio.wait_for(fleet.ask(home, make_body), 10)
            assert (reply.endpoint, fleet.hedged, fleet.in_flight) == (two.url, 1, 0)
            assert one.asked[-1].raw == two.asked[-1].raw
            assert len(two.asked) == before + 1
            async with asyncio.timeout(5):
                while one.in_hand:
                    await asyncio.sleep(0.01)


async def test_a_straggler_at_an_endpoint_that_has_left_is_sent_to_the_one_that_stayed() -> None:
    stalling = Stalling()
    with serving(stalling) as one, serving() as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls, before = True, one.requests
            asked = asyncio.create_task(fleet.ask(home, make_body))
            while one.requests == before:
                await asyncio.sleep(0.01)
            fleet.leave(one.url)
            fleet.no_more()
            reply = await asyncio.wait_for(asked, 10)
            assert (reply.endpoint, fleet.hedged, fleet.in_flight) == (two.url, 1, 0)


async def test_nothing_is_sent_twice_before_the_job_says_that_nothing_new_comes() -> None:
    stalling = Stalling(say("late", delay=1.6))
    with serving(stalling) as one, serving() as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls = True
            reply = await fleet.ask(home, make_body)

    assert (reply.endpoint, fleet.hedged) == (one.url, 0)


async def test_an_error_of_the_second_request_is_no_ones_and_the_first_may_still_win() -> None:
    stalling, failing = Stalling(say("late", delay=1.8)), Stalling(fail(500))
    with serving(stalling) as one, serving(failing) as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls = failing.stalls = True
            fleet.no_more()
            reply = await fleet.ask(home, make_body)
            assert (reply.endpoint, reply.answer.text, fleet.hedged) == (one.url, "late", 1)


async def test_the_second_request_saves_one_whose_first_breaks_after_all() -> None:
    stalling, slow = Stalling(Reaction(reset=True, delay=1.5)), Stalling(say("saved", delay=1.0))
    with serving(stalling) as one, serving(slow) as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls = slow.stalls = True
            fleet.no_more()
            reply = await fleet.ask(home, make_body)
            assert (reply.endpoint, reply.answer.text) == (two.url, "saved")


async def test_a_request_that_breaks_twice_tells_the_first_error_and_gives_its_places_back() -> (
    None
):
    stalling, failing = Stalling(fail(500, "first")), Stalling(fail(500, "second"))
    stalling.then = Reaction(status=500, text="first", delay=1.5)
    with serving(stalling) as one, serving(failing) as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            home = await home_of(fleet, one)
            stalling.stalls = failing.stalls = True
            fleet.no_more()
            with pytest.raises(TransportError, match="first") as told:
                await fleet.ask(home, make_body)
            assert told.value.endpoint == one.url
            assert fleet.in_flight == 0


async def test_the_only_endpoint_is_asked_again_itself_but_one_that_is_down_never() -> None:
    answers = iter([Reaction(hang=True), say("again")])
    stalling = Stalling()
    with serving(lambda a: next(answers) if stalling.stalls else say("x")) as one:
        async with Fleet([Endpoint(one.url)]) as fleet:
            await warm(fleet)
            stalling.stalls = True
            fleet.no_more()
            reply = await asyncio.wait_for(fleet.ask("x", make_body), 10)
            assert (reply.answer.text, fleet.hedged) == ("again", 1)


async def test_nothing_is_sent_twice_while_anything_waits() -> None:
    stalling = Stalling(say("late", delay=1.6))
    with serving(stalling) as server:
        async with Fleet([Endpoint(server.url)], FleetOptions(concurrency=1)) as fleet:
            await warm(fleet)
            stalling.stalls = True
            fleet.no_more()
            await asyncio.gather(fleet.ask("a", make_body), fleet.ask("b", make_body))

    assert fleet.hedged == 0


async def test_a_given_concurrency_that_is_used_is_not_the_clients_limit() -> None:
    with serving(lambda _: say("a caption", delay=0.02)) as one, serving() as two:
        two.script = one.script
        fleet = Fleet([Endpoint(one.url), Endpoint(two.url)], FleetOptions(concurrency=8))
        async with fleet:
            asked = [asyncio.create_task(fleet.ask(str(n), make_body)) for n in range(200)]
            await asyncio.gather(*asked[:100])
            assert fleet.in_flight == 8
            told = [fleet.bottleneck]
            await asyncio.gather(*asked)
            told.append(fleet.bottleneck)
            fleet.no_more()
            told.append(fleet.bottleneck)

    assert told == ["", "client", ""], "while all is used, while nobody asks, and once nobody will"


def test_the_advice_is_given_once_when_something_but_the_engine_was_the_limit_for_long() -> None:
    adviser = Adviser()
    looks = [(0, "client"), (20, "client"), (25, ""), (26, "client"), (55, "client")]
    assert [adviser.look(float(at), wait) for at, wait in looks] == [""] * 5
    assert adviser.look(56.0, "client").endswith(ADVICE["client"])
    assert adviser.look(99.0, "client") == ""
    assert adviser.look(100.0, "engine") == adviser.look(200.0, "engine") == ""
    assert adviser.look(201.0, "front end") == ""
    assert adviser.look(231.0, "front end").endswith(ADVICE["front end"])


def test_the_bottleneck_is_that_of_most_of_the_fleet() -> None:
    assert bottleneck([]) == ""
    assert bottleneck([("engine", 8), ("front end", 256), ("client", 16)]) == "front end"
