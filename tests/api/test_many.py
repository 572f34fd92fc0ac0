"""Many pictures in Python: as they come, each with its input, and never too many at once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from weakref import WeakSet

import pytest
from stub_server import StubOptions, stub

from api.coloured import caption_of, png
from joycap_vllm import (
    Captioned,
    Captioner,
    CaptionerOptions,
    FleetOptions,
    JoycapError,
    NoEndpointError,
    UsageError,
)

from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving

FEW = CaptionerOptions(workers=1, check=False, fleet=FleetOptions(concurrency=4))
IN_WORK = 4 + 2 * 1  # requests in flight, and two pictures ahead for each worker
AHEAD = 2  # inputs that are read before there is room for them


async def collected(stream: AsyncIterator[Captioned[bytes]]) -> list[Captioned[bytes]]:
    return [done async for done in stream]


async def test_each_caption_comes_with_the_input_that_it_belongs_to(server: FaultServer) -> None:
    inputs = [png(number) for number in range(60)]
    async with Captioner(server.url) as joy:
        found = await collected(joy.caption_many(inputs, "straightforward"))

    assert sorted(done.index for done in found) == list(range(60))
    for done in found:
        assert done.input is inputs[done.index]
        assert (done.caption, done.prompt) == (caption_of(done.index), "straightforward")


def slow_first(asked: Asked) -> Reaction:
    """The lower the number of a picture, the later its answer."""
    return say(name_of(asked.color), delay=0.1 if asked.color[0] % 4 == 0 else 0.0)


async def test_captions_come_as_they_are_ready_or_in_order() -> None:
    inputs = [png(number) for number in range(24)]
    with serving(slow_first) as server:
        async with Captioner(server.url, options=FEW) as joy:
            ready = [d.index for d in await collected(joy.caption_many(inputs))]
            ordered = [d.index for d in await collected(joy.caption_many(inputs, in_order=True))]

    assert ordered == list(range(24))
    assert sorted(ready) == ordered != ready


async def test_several_prompts_of_an_image_come_together(server: FaultServer) -> None:
    async with Captioner(server.url) as joy:
        prompts = ["descriptive", "booru-like-tag-list"]
        found = await collected(joy.caption_many([png(3), png(4)], prompts, in_order=True))

    assert [(done.index, done.prompt) for done in found] == [
        (index, prompt) for index in range(2) for prompt in prompts
    ]
    assert found[3].caption == "plain picture, 04005a"


async def test_what_an_input_holds_beside_its_picture_comes_back() -> None:
    rows = [(f"row-{number}", png(number)) for number in range(5)]
    with serving() as server:
        async with Captioner(server.url) as joy:
            stream = joy.caption_many(rows, image=lambda row: row[1])
            found = {done.input[0]: done.caption async for done in stream}

    assert found == {f"row-{number}": caption_of(number) for number in range(5)}


async def test_a_bad_picture_is_an_outcome_as_any_other(
    tmp_path: Path, server: FaultServer
) -> None:
    inputs: list[bytes | Path] = [png(1), b"no picture", tmp_path / "gone.jpg", png(2)]
    async with Captioner(server.url) as joy:
        found = [done async for done in joy.caption_many(inputs, in_order=True)]

    assert [done.outcome.outcome for done in found] == ["ok", "failed", "failed", "ok"]
    assert found[1].caption is None
    assert str(tmp_path / "gone.jpg") in found[2].outcome.why


async def test_what_gets_no_caption_keeps_its_best_text_to_itself() -> None:
    with serving(lambda asked: say("a red car, " * 60)) as server:
        options = CaptionerOptions(retries=1, check=False)
        async with Captioner(server.url, options=options) as joy:
            (done,) = await collected(joy.caption_many([png(1)]))

    assert (done.outcome.outcome, done.outcome.glitch, done.caption) == (
        "glitched",
        "repetition",
        None,
    )
    assert len(done.outcome.attempts) == 2


class Endless:
    """Pictures without end, which counts how many were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        for number in itertools.count():
            self.read += 1
            yield png(number)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for image in iter(self):
            yield image


class Plain:
    """Only its `__iter__`."""

    def __init__(self, endless: Endless) -> None:
        self._endless = endless

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._endless)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_of_endless_inputs_only_so_many_are_in_work(kind: str, in_order: bool) -> None:
    endless, taken, most = Endless(), 0, 0
    with serving() as server:
        async with Captioner(server.url, options=FEW) as joy:
            inputs = endless if kind == "async" else Plain(endless)
            stream = joy.caption_many(inputs, in_order=in_order)
            async with aclosing(stream):
                async for _ in stream:
                    taken += 1
                    if taken % 10 == 0:  # whoever takes slowly slows the reading down
                        await settled(endless)
                    most = max(most, endless.read - taken)
                    if taken == 60:
                        break
        read, peak = endless.read, server.peak

    assert IN_WORK - 1 <= most <= IN_WORK + AHEAD
    assert read <= taken + IN_WORK + AHEAD
    assert peak <= 4


async def settled(endless: Endless) -> None:
    """Returns when nothing more is read."""
    before = -1
    while before != endless.read:
        before = endless.read
        await asyncio.sleep(0.05)


async def test_leaving_early_ends_what_is_in_flight() -> None:
    with serving(lambda a: Reaction(hang=a.color[0] >= 3, text=name_of(a.color))) as server:
        async with Captioner(server.url, options=FEW) as joy:
            async with aclosing(joy.caption_many(Plain(Endless()))) as stream:
                async for done in stream:
                    if done.index == 2:
                        break
            assert joy.fleet.in_flight == 0
            assert not threads("joycap-inputs")
            async with asyncio.timeout(5):
                while server.in_hand:  # it learns of a closed connection a moment later
                    await asyncio.sleep(0.01)
            assert await joy.caption(png(1)) == caption_of(1), "the captioner goes on"


def threads(name: str) -> list[str]:
    until = time.monotonic() + 5
    while found := [t.name for t in threading.enumerate() if t.name == name]:
        if time.monotonic() > until:
            break
    return found


async def test_a_bare_break_ends_what_is_in_flight_too(server: FaultServer) -> None:
    async with Captioner(server.url, options=FEW) as joy:
        async for _ in joy.caption_many(Endless()):
            break
        gc.collect()
        async with asyncio.timeout(5):
            while joy.fleet.in_flight or joy.fleet.waiting:
                await asyncio.sleep(0.01)
    assert all(task is asyncio.current_task() for task in asyncio.all_tasks())


async def test_closing_the_captioner_ends_its_streams() -> None:
    with serving(lambda a: Reaction(hang=a.color[0] >= 1, text=name_of(a.color))) as server:
        async with Captioner(server.url, options=FEW) as joy:
            stream = joy.caption_many(Endless())
            await anext(stream)
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
        with pytest.raises(JoycapError, match="was closed"):
            await waiting


def test_a_stream_that_is_left_lying_ends_quietly_with_the_program(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[AsyncIterator[Captioned[bytes]]] = []

    async def program() -> None:
        async with Captioner(server.url, options=FEW) as joy:
            left.append(joy.caption_many(Endless()))
            await anext(left[0])

    asyncio.run(program())

    assert caplog.records == [], "asyncio would tell of faults here"


async def test_a_stream_that_nobody_reads_begins_nothing(server: FaultServer) -> None:
    endless = Endless()
    async with Captioner(server.url) as joy:
        stream = joy.caption_many(endless)
        await asyncio.sleep(0)
        assert endless.read == 0
        await stream.aclose()


async def test_inputs_that_break_end_the_stream_after_what_was_begun(server: FaultServer) -> None:
    def broken() -> Iterator[bytes]:
        yield from (png(number) for number in range(5))
        raise LookupError("the camera is gone")

    async with Captioner(server.url) as joy:
        stream = joy.caption_many(broken())
        found = [(await anext(stream)).index for _ in range(5)]
        with pytest.raises(LookupError, match="the camera is gone"):
            await anext(stream)

    assert sorted(found) == [0, 1, 2, 3, 4]


async def test_inputs_that_wait_hold_up_no_result(server: FaultServer) -> None:
    more = threading.Event()

    def halting() -> Iterator[bytes]:
        yield png(0)
        assert more.wait(20)
        yield png(1)

    async with Captioner(server.url) as joy:
        stream = joy.caption_many(halting())
        assert (await anext(stream)).index == 0
        more.set()
        assert (await anext(stream)).index == 1
        await stream.aclose()


async def test_servers_that_are_gone_for_good_end_the_stream() -> None:
    options = CaptionerOptions(fleet=FleetOptions(patience=0.3))
    with serving() as server:
        async with Captioner(server.url, options=options) as joy:
            server.script = lambda asked: fail(503)
            with pytest.raises(NoEndpointError):
                await collected(joy.caption_many([png(1), png(2)]))
            assert joy.fleet.in_flight == 0


async def test_wrong_calls_are_told_at_once(server: FaultServer) -> None:
    async with Captioner(server.url) as joy:
        with pytest.raises(UsageError, match="caption takes one"):
            joy.caption_many("dog.jpg")
        with pytest.raises(UsageError, match="no caption type"):
            joy.caption_many([b""], "nonsense")
        with pytest.raises(UsageError, match="two prompts"):
            joy.caption_many([b""], ["descriptive", "descriptive"])
        with pytest.raises(UsageError, match="at least one"):
            joy.caption_many([b""], [])


class Row:
    """An input that can be watched."""


@pytest.mark.timeout(120)
async def test_memory_is_level_however_many_there_are() -> None:
    rows: WeakSet[Row] = WeakSet()

    def watched() -> Iterator[Row]:
        for _ in range(1200):
            row = Row()
            rows.add(row)
            yield row

    image, live, held = png(1), [0], [0]
    options = CaptionerOptions(
        workers=1,
        wire="jpeg",  # small ones, so that it matters little how many are in flight by chance
        check=False,
        fleet=FleetOptions(concurrency=32),
    )
    with stub(StubOptions(slots=64, latency=0.001)) as server:
        async with Captioner(server.url, options=options) as joy:
            tracemalloc.start()
            try:
                async for done in joy.caption_many(watched(), image=lambda row: image):
                    if done.index % 300 == 200:
                        gc.collect()
                        live.append(len(rows))
                        held.append(tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()

    assert len(held) == 5
    assert max(live) <= 32 + 2 + AHEAD + 2, "the one in hand, and one on its way"
    assert held[-1] - held[1] < 900_000, f"{held}: a kilobyte for each would be as much"
