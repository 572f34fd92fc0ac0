"""Who takes the next request, who rests, who is down."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from joycap_vllm.errors import NoEndpointError, TransportError
from joycap_vllm.fleet import Body, Endpoint, Fleet, FleetOptions, prove, request_body
from joycap_vllm.fleet.proof import test_picture as the_picture

from fault_server import Asked, FaultServer, Reaction, fail, say, serving, truthful


def make_body(endpoint: Endpoint) -> Body:
    return request_body(
        model="m", system="", text="What?", picture=the_picture(), mime="image/png", sampling={}
    )


async def test_all_requests_about_an_image_go_to_its_home_while_there_is_room() -> None:
    with serving() as one, serving() as two:
        fleet = Fleet([Endpoint(one.url), Endpoint(two.url)])
        async with fleet:
            homes = []
            for image in range(20):
                replies = [await fleet.ask(f"image {image}", make_body) for _ in range(3)]
                homes.append({reply.endpoint for reply in replies})

    assert all(len(home) == 1 for home in homes)
    assert {url for home in homes for url in home} == {one.url, two.url}


async def test_a_busy_home_is_escaped_from() -> None:
    def slow(asked: Asked) -> Reaction:
        return say("a caption", delay=0.3)

    with serving(slow) as one, serving(slow) as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            replies = await asyncio.gather(*(fleet.ask("same", make_body) for _ in range(16)))

    assert {reply.endpoint for reply in replies} == {one.url, two.url}


async def test_the_concurrency_holds_over_the_whole_fleet() -> None:
    def slow(asked: Asked) -> Reaction:
        return say("a caption", delay=0.05)

    with serving(slow) as server:
        options = FleetOptions(concurrency=5)
        async with Fleet([Endpoint(server.url)], options) as fleet:
            await asyncio.gather(*(fleet.ask(str(n), make_body) for n in range(30)))

    assert server.peak == 5
    assert len(server.asked) == 30


async def test_a_client_that_does_not_use_its_limit_is_told() -> None:
    def slow(asked: Asked) -> Reaction:
        return say("a caption", delay=0.02)

    async def one_after_the_other(fleet: Fleet) -> None:
        for number in range(12):
            await fleet.ask(str(number), make_body)

    with serving(slow) as server:
        async with Fleet([Endpoint(server.url)]) as fleet:
            await asyncio.gather(*(one_after_the_other(fleet) for _ in range(3)))

            assert (fleet.capacity, fleet.bottleneck) == (4, "client")


async def test_a_full_server_is_waited_for_at_no_charge() -> None:
    def full_twice(asked: Asked) -> Reaction:
        return fail(503, retry_after="0.05") if asked.attempt <= 2 else truthful(asked)

    with serving(full_twice) as server:
        async with Fleet([Endpoint(server.url)]) as fleet:
            reply = await fleet.ask("x", make_body)

    assert reply.answer.text
    assert len(server.asked) == 3


@pytest.mark.parametrize("pause", ["0", "0.1"])
async def test_a_server_that_stays_full_ends_the_patience(pause: str) -> None:
    with serving(lambda _: fail(503, retry_after=pause)) as server:
        options = FleetOptions(patience=0.2)
        async with Fleet([Endpoint(server.url)], options) as fleet:
            with pytest.raises(NoEndpointError, match="full for"):
                await asyncio.wait_for(fleet.ask("x", make_body), 5 if pause == "0" else 70)

    assert len(server.asked) < 5


async def test_retries_go_before_new_work() -> None:
    order: list[str] = []

    with serving(lambda _: say("a caption", delay=0.1)) as server:
        async with Fleet([Endpoint(server.url)], FleetOptions(concurrency=1)) as fleet:

            async def ask(name: str, *, first: bool = False) -> None:
                await fleet.ask(name, make_body, first=first)
                order.append(name)

            async with asyncio.TaskGroup() as group:
                group.create_task(ask("running"))
                await asyncio.sleep(0)
                group.create_task(ask("new"))
                await asyncio.sleep(0)
                group.create_task(ask("retry", first=True))

    assert order == ["running", "retry", "new"]


async def until_down(fleet: Fleet) -> None:
    """Asks until the endpoint counts as down; a connection that was open may break first."""
    for _ in range(3):
        if not fleet.state:
            with pytest.raises(TransportError):
                await fleet.ask("x", make_body)


async def test_an_endpoint_that_went_away_is_used_again_when_it_is_back() -> None:
    server = FaultServer()
    async with Fleet([Endpoint(server.url)]) as fleet:
        await fleet.ask("x", make_body)
        server.close()
        await until_down(fleet)
        waiting = asyncio.create_task(fleet.ask("x", make_body))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert "cannot connect" in fleet.state
        back = FaultServer(port=server.port)
        try:
            assert (await asyncio.wait_for(waiting, 20)).answer.text
            assert fleet.state == ""
        finally:
            back.close()


async def test_a_fleet_that_stays_away_ends_the_patience() -> None:
    server = FaultServer()
    async with Fleet([Endpoint(server.url)], FleetOptions(patience=0.3)) as fleet:
        server.close()
        await until_down(fleet)
        with pytest.raises(NoEndpointError, match=str(server.port)):
            await fleet.ask("x", make_body)


async def test_the_work_of_an_endpoint_that_only_says_that_it_is_well_goes_elsewhere() -> None:
    with serving(lambda _: fail(500)) as broken, serving() as well:
        async with Fleet([Endpoint(broken.url), Endpoint(well.url)]) as fleet:
            assert await fleet.still_answers(well.url)
            assert not await fleet.still_answers(broken.url)
            replies = [await fleet.ask(str(n), make_body) for n in range(8)]
            assert fleet.members[0].down_why

    assert {reply.endpoint for reply in replies} == {well.url}


async def test_a_queue_at_the_server_lowers_the_limit(server: FaultServer) -> None:
    server.gauges = (4, 100)
    endpoint = Endpoint(server.url)
    await endpoint.probe(None)
    async with Fleet([endpoint]) as fleet:
        async with asyncio.timeout(10):
            while fleet.capacity == 4:
                await asyncio.sleep(0.05)

    assert fleet.capacity == 2, "half of the engine: the queue is of others"


async def test_the_proof_takes_an_answer_in_words_and_no_other() -> None:
    with serving() as good, serving(lambda _: say("!!!")) as bad:
        passed, failed = await prove(good.url), await prove(bad.url)

    assert (passed.ok, passed.problems, passed.image_tokens) == (True, (), None)
    assert not failed.ok
    assert "!!!" in failed.problems[0]


async def test_the_servers_own_counts_are_summed_and_nonsense_is_none(server: FaultServer) -> None:
    with serving() as other, serving() as silent:
        server.gauges, other.gauges = (4, 100), (3, 1)
        endpoints = [Endpoint(each.url) for each in (server, other, silent)]
        for endpoint in endpoints:
            await endpoint.probe(None)
        async with Fleet(endpoints, FleetOptions(concurrency=4)) as fleet:
            assert fleet.queue is None
            async with asyncio.timeout(10):
                while fleet.queue != (7, 101):
                    await asyncio.sleep(0.05)
            assert fleet.capacity == 4, "a fixed number follows no queue"
            server.gauges = (-1, 0)
            assert await endpoints[0].load() is None


async def test_a_server_that_never_answers_the_test_picture_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("joycap_vllm.fleet.proof._DEADLINE", 0.2)
    with serving(lambda _: Reaction(hang=True)) as server:
        proof = await prove(server.url)

    assert not proof.ok
    assert "no answer within" in proof.why
    assert server.requests == 1


async def test_an_endpoint_that_dies_and_comes_back_is_told_of_though_the_others_go_on() -> None:
    dying = FaultServer()
    port = dying.port
    with serving() as other:
        async with Fleet([Endpoint(dying.url), Endpoint(other.url)]) as fleet:
            dying.close()
            for number in range(20):
                with contextlib.suppress(TransportError):
                    await fleet.ask(str(number), make_body)
            told = list(fleet.news)
            fleet.news.clear()
            back = FaultServer(port=port)
            async with asyncio.timeout(10):
                while not fleet.news:
                    await asyncio.sleep(0.01)
            again = list(fleet.news)
        back.close()

    assert [line.split(": ")[0] for line in told] == [f"{dying.url} is down"]
    assert "cannot connect" in told[0]
    assert again == [f"{dying.url} is up again"]
