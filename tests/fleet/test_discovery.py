"""Endpoints that come and go: a file that changes, a name with several addresses."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.captioner import Captioner, CaptionerOptions
from joycap_vllm.errors import NoEndpointError, UsageError
from joycap_vllm.fleet import Endpoint, Entry, Fleet, Roll, listing_of, notes_on, usable
from joycap_vllm.fleet.discovery import Listing

from .test_fleet import make_body
from fault_server import Asked, FaultServer, Reaction, fail, say, serving


async def test_a_file_names_one_url_a_line_with_comments_and_each_once(tmp_path: Path) -> None:
    file = tmp_path / "fleet.txt"
    file.write_text("\ufeff# ours\n\ngpu1:8000  # the old one\r\nhttp://gpu2:8000/v1\ngpu1:8000/\n")
    listing = listing_of(str(file))

    assert await listing.look() == ("http://gpu1:8000/v1", "http://gpu2:8000/v1")
    assert listing.problem == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "names no base URL"),
        (b"# all gone\n", "names no base URL"),
        (b"http://gpu1:8000\nftp://gpu2\n", "line 2"),
        (b"\xff\xfe\x00h", "line 1"),
        (b"http://a\n" * 200_000, "too large"),
    ],
)
async def test_a_file_that_says_nothing_clear_keeps_what_it_said_before(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "fleet.txt"
    file.write_text("http://gpu1:8000\n")
    listing = listing_of(str(file))
    before = await listing.look()
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    assert await listing.look() == before == ("http://gpu1:8000/v1",)
    assert words in listing.problem
    assert str(file) in listing.problem
    file.write_text("http://gpu2:8000\n")
    assert await listing.look() == ("http://gpu2:8000/v1",)
    assert listing.problem == ""


async def test_a_file_that_is_replaced_by_one_as_old_and_as_long_is_read_again(
    tmp_path: Path,
) -> None:
    file, new = tmp_path / "fleet.txt", tmp_path / "new"
    for path, number in ((file, 1), (new, 2)):
        path.write_text(f"http://gpu{number}:8000\n")
        os.utime(path, (1, 1))
    listing = listing_of(str(file))
    await listing.look()
    new.replace(file)

    assert await listing.look() == ("http://gpu2:8000/v1",)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=60))
def test_no_content_of_a_file_breaks_the_look(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(content)
    listing = listing_of(str(file))
    urls = asyncio.run(listing.look())

    assert bool(urls) != bool(listing.problem)


async def test_every_address_of_a_name_is_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = listing_of("dns+http://localhost:8000")
    assert "http://127.0.0.1:8000/v1" in await listing.look()

    hosts = ["10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2"]
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 9000)) for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: rows)
    found = await listing_of("dns+http://pods:9000/api/v1").look()

    assert found == tuple(
        f"http://{host}:9000/api/v1" for host in ("10.0.0.1", "10.0.0.2", "[fd00::1]")
    )


async def test_a_name_that_is_not_found_keeps_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listing = listing_of("dns+http://localhost:8000/v1")
    before = await listing.look()

    def fails(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert await listing.look() == before
    assert "localhost has no address" in listing.problem


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("dns+https://pods:8000", "certificates"),
        ("http://gpu1:8000", "--base-url"),
        ("dns+http://user:word@pods", "password"),
    ],
)
def test_what_is_no_listing_is_wrong_usage(source: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CaptionerOptions(endpoints=source)


async def test_a_listing_without_endpoints_at_the_start_says_so(tmp_path: Path) -> None:
    file = tmp_path / "fleet.txt"
    file.touch()
    with pytest.raises(NoEndpointError, match="names no base URL"):
        async with Captioner(options=CaptionerOptions(endpoints=str(file))):
            pass


async def test_endpoints_of_a_listing_add_to_those_that_are_given(tmp_path: Path) -> None:
    with serving() as one, serving() as two:
        file = tmp_path / "fleet.txt"
        file.write_text(two.url)
        async with Captioner(one.url, options=CaptionerOptions(endpoints=str(file))) as joy:
            urls = {station.endpoint.url for station in joy.fleet.members}

    assert urls == {one.url, two.url}


async def test_a_given_server_that_starts_late_joins_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("joycap_vllm.fleet.roll._AGAIN", 0.0)
    late = FaultServer()
    url, port = late.url, late.port
    late.close()
    with serving() as one:
        async with Captioner(one.url, url) as joy:
            assert ["is left out" in line for line in joy.notices] == [True]
            again = FaultServer(port=port)
            await until(joy.fleet, one, again)
            news = list(joy.fleet.news)
        again.close()

    assert news == [f"{url} joins"]


class Named(Listing):
    """A listing that is told what it names."""

    async def _find(self) -> tuple[str, ...]:
        return self.named

    def __init__(self, *urls: str) -> None:
        super().__init__("told")
        self.named = urls


async def until(fleet: Fleet, *servers: FaultServer) -> None:
    urls = {server.url for server in servers}
    async with asyncio.timeout(10):
        while {station.endpoint.url for station in fleet.members} != urls:
            await asyncio.sleep(0.01)


async def test_endpoints_join_once_they_are_proved_and_leave_when_they_have_ended_their_work() -> (
    None
):
    def slow(asked: Asked) -> Reaction:
        return say("a caption", delay=0.6 if asked.attempt == 1 else 0.0)

    with serving(slow) as one, serving() as two:
        listing = Named(one.url)
        async with Fleet([Endpoint(one.url)]) as fleet:
            following = asyncio.create_task(Roll(fleet, listing, Entry(), look=0.02).follow())
            under_way = asyncio.create_task(fleet.ask("an image", make_body))
            while not one.asked:
                await asyncio.sleep(0.01)
            listing.named = (two.url,)
            await until(fleet, two)
            assert len(two.asked) == 1, "the test picture"
            replies = [await fleet.ask(str(n), make_body) for n in range(6)]
            assert not under_way.done()
            assert (await under_way).endpoint == one.url
            listing.named = (one.url, two.url)
            await until(fleet, one, two)
            back = [await fleet.ask(str(n), make_body) for n in range(20)]
            following.cancel()

    assert {reply.endpoint for reply in replies} == {two.url}
    assert {reply.endpoint for reply in back} == {one.url, two.url}
    assert [line.rpartition("/v1 ")[2] for line in fleet.news].count("joins") == 2


async def test_an_endpoint_that_fails_its_check_is_told_of_once_and_gets_no_work() -> None:
    with serving() as good, serving(lambda _: say("!!!")) as bad:
        listing = Named(good.url, bad.url)
        async with Fleet([Endpoint(good.url)]) as fleet:
            following = asyncio.create_task(Roll(fleet, listing, Entry(), look=0.02).follow())
            async with asyncio.timeout(10):
                while not fleet.news:
                    await asyncio.sleep(0.01)
            await until(fleet, good)
            following.cancel()

    assert len(fleet.news) == 1
    assert bad.url in fleet.news[0]


async def test_a_key_that_only_requests_need_leaves_one_endpoint_out_and_not_the_whole_fleet() -> (
    None
):
    with serving() as good, serving(lambda _: fail(401, "no such key")) as bad:
        endpoints, left_out = await usable([bad.url, good.url], Entry())
        async with Fleet(endpoints) as fleet:
            roll = Roll(fleet, Named(good.url, bad.url), Entry(), look=0.02)
            following = asyncio.create_task(roll.follow())
            async with asyncio.timeout(10):
                while not fleet.news:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            following.cancel()

    assert [endpoint.url for endpoint in endpoints] == [good.url]
    assert ["API key" in why for why in (left_out[0].why, *fleet.news)] == [True, True]
    assert bad.requests == 2


async def test_a_good_endpoint_is_found_among_thousands_that_are_not_there() -> None:
    dead = [f"http://127.0.{n // 250}.{n % 250 + 1}:9/v1" for n in range(2000)]
    with serving() as good:
        endpoints, left_out = await usable([*dead, good.url], Entry())
        told = notes_on(endpoints, left_out)
        await endpoints[0].close()

    assert [endpoint.url for endpoint in endpoints] == [good.url]
    assert (len(told), told[-1]) == (11, "and 1,990 others")


async def test_who_serves_another_model_is_told_of() -> None:
    with serving() as one, serving(model="other") as two, serving() as three:
        endpoints, left_out = await usable([one.url, two.url], Entry())
        (told,) = notes_on(endpoints, left_out)
        assert "different models (fault, other)" in told
        async with Fleet(endpoints[:1]) as fleet:
            listing = Named(one.url, three.url)
            following = asyncio.create_task(Roll(fleet, listing, Entry(), look=0.02).follow())
            await until(fleet, one, three)
            listing.named = (one.url, three.url, two.url)
            await until(fleet, one, two, three)
            following.cancel()
        await endpoints[1].close()

    assert list(fleet.news) == [
        f"{three.url} joins",
        f"{two.url} joins with another model, other",
    ]


async def test_the_last_endpoint_that_leaves_is_waited_for_until_another_comes() -> None:
    with serving() as one, serving() as two:
        listing = Named()
        async with Fleet([Endpoint(one.url)]) as fleet:
            following = asyncio.create_task(Roll(fleet, listing, Entry(), look=0.02).follow())
            await until(fleet)
            assert fleet.down
            asked = asyncio.create_task(fleet.ask("an image", make_body))
            listing.named = (two.url,)
            assert (await asyncio.wait_for(asked, 10)).endpoint == two.url
            following.cancel()


async def test_the_changes_of_limits_tell_their_endpoint_and_outlast_it() -> None:
    with serving() as one, serving() as two:
        async with Fleet([Endpoint(one.url), Endpoint(two.url)]) as fleet:
            for number, station in enumerate(reversed(fleet.members)):
                station.member.limit.on_full(100.0 + number)
            fleet.leave(one.url)
            told = [(url, change.at, change.why) for url, change in fleet.changes()]

    assert [(url, at) for url, at, _ in told] == [(two.url, 100.0), (one.url, 101.0)]
    assert all(why for _, _, why in told)
