"""Writes beside the event loop: each is done once, told to who waits, and none holds the others."""

from __future__ import annotations

import asyncio
import threading

import pytest

from joycap_vllm.job.writers import Writers


async def test_every_write_is_done_once_and_in_other_threads() -> None:
    writers, done = Writers(), list[tuple[int, str]]()
    await asyncio.gather(
        *(
            writers.run(lambda n=n: done.append((n, threading.current_thread().name)))  # type: ignore[misc]
            for n in range(500)
        )
    )
    writers.close()

    assert sorted(number for number, _ in done) == list(range(500))
    assert all(name.startswith("joycap-write") for _, name in done)


async def test_an_error_reaches_who_waits_for_that_write_alone() -> None:
    writers = Writers()

    def fails() -> None:
        raise OSError("no space")

    ended = await asyncio.gather(
        writers.run(fails), writers.run(lambda: None), return_exceptions=True
    )
    writers.close()

    assert isinstance(ended[0], OSError)
    assert ended[1] is None


async def test_more_threads_join_where_writes_pile_up_behind_a_slow_one() -> None:
    writers, gate, threads = Writers(), threading.Event(), set[str]()

    def slow() -> None:
        threads.add(threading.current_thread().name)
        gate.wait(10)

    waiting = [asyncio.ensure_future(writers.run(slow)) for _ in range(400)]
    while len(threads) < 4:
        await asyncio.sleep(0.001)
    gate.set()
    await asyncio.gather(*waiting)
    writers.close()

    assert 4 <= len(threads) <= 8


async def test_a_write_that_is_cancelled_before_its_turn_is_left_out() -> None:
    writers, gate, began, done = Writers(1), threading.Event(), threading.Event(), list[str]()

    def slow() -> None:
        began.set()
        gate.wait(10)

    first = asyncio.ensure_future(writers.run(slow))
    await asyncio.to_thread(began.wait, 10)
    second = asyncio.ensure_future(writers.run(lambda: done.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    await first
    await writers.run(lambda: done.append("third"))
    writers.close()

    assert done == ["third"]
