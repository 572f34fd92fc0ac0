"""Any number of inputs through work of which only so much is begun, and results as they come."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from joycap_vllm.errors import JoycapError
from joycap_vllm.task import Outcome

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2  # inputs that are read before there is room for them
_MORE, _END, _BROKEN = range(3)


@dataclass(frozen=True, slots=True)
class Captioned(Generic[T]):
    """What came of one input and one prompt.

    Args:
        input: The very object that was given.
        index: Its number among the inputs, from 0.
        prompt: The prompt's name, such as `descriptive`.
        outcome: How it ended; also of a picture that could not be used.
    """

    input: T
    index: int
    prompt: str
    outcome: Outcome

    @property
    def caption(self) -> str | None:
        """The caption; None where there is none that can be trusted."""
        return self.outcome.caption if self.outcome.outcome == "ok" else None


class Stream(Generic[T, R]):
    """Inputs on their way through work; no more are read than the work has room for.

    Args:
        items: Where inputs come from. A plain iterable may wait as long as it likes: what is no
            list is read in a thread of its own.
        work: Given an input's number, from 0, and the input.
        room: How many inputs may be begun whose results nobody has taken yet; asked often.
        in_order: Whether results come in the order of the inputs, else as they are ready.
    """

    def __init__(
        self,
        items: Iterable[T] | AsyncIterable[T],
        work: Callable[[int, T], Awaitable[Sequence[R]]],
        room: Callable[[], float],
        *,
        in_order: bool = False,
    ) -> None:
        self._items = items
        self._work = work
        self._room = room
        self._in_order = in_order
        self._begun: set[asyncio.Future[Sequence[R]]] = set()
        self._ready: asyncio.Queue[asyncio.Future[Sequence[R]] | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._closed = False

    async def results(self) -> AsyncGenerator[R, None]:
        """The results; whoever leaves early ends all that is begun.

        Where the inputs raise, what was begun before comes first.

        Raises:
            JoycapError: The stream was closed by somebody else.
        """
        self._feeder = asyncio.create_task(self._feed())
        try:
            while (task := await self._ready.get()) is not None:
                await asyncio.wait({task})  # which does not take a cancelled task for our own end
                self._require_open()
                self._begun.discard(task)
                self._taken.set()
                for result in task.result():
                    yield result
            self._require_open()
            await self._feeder
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends everything that is begun, and waits until it has ended."""
        self._closed = True
        rest: list[asyncio.Future[Any]] = [*self._begun]
        rest += [] if self._feeder is None else [self._feeder]
        for task in rest:
            task.cancel()
        self._ready.put_nowait(None)
        await asyncio.gather(*rest, return_exceptions=True)

    def _require_open(self) -> None:
        if self._closed:
            raise JoycapError("the captioner was closed while its captions were still awaited")

    async def _feed(self) -> None:
        number = 0
        try:
            async with aclosing(_each(self._items)) as items:
                async for item in items:
                    self._begin(number, item)
                    del item  # it may be a large picture
                    number += 1
                    await self._wait_for_room()
        finally:
            if self._begun and not self._in_order:
                await asyncio.wait(self._begun)
            self._ready.put_nowait(None)

    def _begin(self, number: int, item: T) -> None:
        task = asyncio.ensure_future(self._work(number, item))
        self._begun.add(task)
        if self._in_order:
            self._ready.put_nowait(task)
        else:
            task.add_done_callback(self._ready.put_nowait)

    async def _wait_for_room(self) -> None:
        while len(self._begun) >= self._room():
            self._taken.clear()
            await self._taken.wait()


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    elif isinstance(items, Sequence):
        for item in items:
            yield item
    else:
        async with aclosing(_read_in_thread(items)) as read:
            async for item in read:
                yield item


async def _read_in_thread(items: Iterable[T]) -> AsyncGenerator[T, None]:
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    room, left = threading.Semaphore(_AHEAD), threading.Event()

    def tell(kind: int, value: Any = None) -> None:
        try:
            loop.call_soon_threadsafe(told.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed: nobody listens any more
            left.set()

    # A daemon, since an iterable may wait for ever and the process should end all the same.
    context = contextvars.copy_context()
    arguments = (_read, items, room, left, tell)
    threading.Thread(target=context.run, args=arguments, name="joycap-inputs", daemon=True).start()
    try:
        while (news := await told.get())[0] == _MORE:
            room.release()
            yield news[1]
        if news[0] == _BROKEN:
            raise news[1]
    finally:
        left.set()
        room.release()


def _read(
    items: Iterable[T],
    room: threading.Semaphore,
    left: threading.Event,
    tell: Callable[..., None],
) -> None:
    try:
        following: Iterator[T] = iter(items)
        while True:
            room.acquire()
            if left.is_set():
                return
            try:
                item = next(following)
            except StopIteration:
                tell(_END)
                return
            tell(_MORE, item)
            del item
    except BaseException as error:  # whatever it is, it is raised where the inputs are waited for
        tell(_BROKEN, error)
