"""A worker of a job on a Ray cluster: a process that reads, prepares and asks, and keeps nothing.

What it has ended waits until it is taken. If it dies, nobody has heard of that, and all that it was
given is asked by others: whoever takes, records.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from joycap_vllm import __version__
from joycap_vllm.captioner import Attempt, Captioner, CaptionerOptions, Outcome
from joycap_vllm.errors import ImageError, JoycapError, NoEndpointError, UsageError
from joycap_vllm.images import Prepared
from joycap_vllm.job.crew import Asked, Load, Order, OwnCrew
from joycap_vllm.scale.gate import Gate
from joycap_vllm.sources import FilePlace, SlicePlace

_IDLE = 1.0  # seconds after which a report comes, though nothing has ended
_GATHER = 0.1  # seconds in which more ends join the first: each report costs both sides a message
_YOUNG = 20_000  # objects between two looks for garbage, as in `job.collecting`

Kind = Literal["endpoint", "usage", "fault"]
Answered = tuple[str, str, Attempt, str]  # as `OnAnswer` is told


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker cannot go on."""

    kind: Kind
    text: str

    def error(self) -> JoycapError:
        """As what the job ends with, if it must."""
        kinds = {"endpoint": NoEndpointError, "usage": UsageError, "fault": JoycapError}
        return kinds[self.kind](self.text)


@dataclass(frozen=True, slots=True)
class Briefing:
    """All that a worker has to know.

    Args:
        urls: The fleet.
        options: How it is asked.
        prompts: Questions about an image, at most.
        root: The folder of the job's inputs.
        version: The version of whoever gives work.
    """

    urls: tuple[str, ...]
    options: CaptionerOptions
    prompts: int
    root: str
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Ended:
    """An order that has ended.

    Args:
        number: Its number.
        facts: What the picture is but for its data; None where there is none.
        why: Why there is none.
        outcomes: Of each question that was asked, its place in the order and its outcome.
    """

    number: int
    facts: Prepared | None
    why: str = ""
    outcomes: tuple[tuple[int, Outcome], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What has come since the last one.

    Args:
        room: Images that it can work on at once.
        load: What it does.
        ended: What has ended.
        answers: Every answer.
        news: Lines for users.
        failure: Why it cannot go on.
    """

    room: float = 0.0
    load: Load = field(default_factory=Load)
    ended: tuple[Ended, ...] = ()
    answers: tuple[Answered, ...] = ()
    news: tuple[str, ...] = ()
    failure: Failure | None = None


class Worker:
    """What Ray runs; all of its methods on one event loop."""

    def __init__(self) -> None:
        self._ended: list[Ended] = []
        self._answers: list[Answered] = []
        self._failure: Failure | None = None
        self._happened = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, briefing: Briefing) -> Report:
        """Gets ready; a report with the room that there is, or with a failure.

        The API key comes this way, since Ray keeps what an actor is made with.
        """
        Image.MAX_IMAGE_PIXELS = None  # pictures are held against their own limit, unread
        self._briefing = briefing
        if briefing.version != __version__:
            text = f"{_here()} has joycap-vllm {__version__}, and not {briefing.version}"
            return Report(failure=Failure("usage", text))
        try:
            self._captioner = Captioner(*briefing.urls, options=briefing.options)
            await self._captioner.__aenter__()
        except JoycapError as error:
            return Report(failure=_failure(error))
        self._captioner.on_answer = lambda *answer: self._answers.append(answer)
        self._crew = OwnCrew(self._captioner, briefing.prompts)
        self._gate = Gate(lambda: self._crew.room)
        gc.freeze()
        gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
        notices, self._captioner.notices = tuple(self._captioner.notices), []
        return Report(self._crew.room, self._crew.look(), news=notices)

    async def give(self, orders: list[tuple[int, Order]]) -> None:
        """Begins orders, which have numbers."""
        for number, order in orders:
            task = asyncio.create_task(self._work(number, order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(self) -> Report:
        """What has come, as soon as anything has ended, or after a second."""
        if not self._ended and self._failure is None:
            self._happened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE):
                    await self._happened.wait()
        if self._failure is None and self._ended:
            await asyncio.sleep(_GATHER)
        ended, self._ended = tuple(self._ended), []
        answers, self._answers = tuple(self._answers), []
        load, news = self._crew.look(), tuple(self._crew.news)
        self._crew.news.clear()
        return Report(self._crew.room, load, ended, answers, news, self._failure)

    async def no_more(self) -> None:
        """Nothing new comes."""
        self._crew.no_more()

    async def _work(self, number: int, order: Order) -> None:
        outcomes: list[tuple[int, Outcome]] = []
        facts: list[Prepared] = []

        async def told(asked: Asked, outcome: Outcome, seen: Prepared) -> None:
            outcomes.append((order.asked.index(asked), outcome))
            facts[:] = [seen]

        try:
            async with self._gate:
                await self._crew.ask(order, told)
            known = facts[0] if facts else None
            ended = Ended(number, known, outcomes=tuple(outcomes))
        except ImageError as error:
            if self._is_blind(order):
                return
            ended = Ended(number, None, str(error))
        except Exception as error:
            self._fail(_failure(error))
            return
        self._ended.append(ended)
        self._happened.set()

    def _is_blind(self, order: Order) -> bool:
        """Whether the picture is missing since this machine does not see the job's files at all."""
        place, root = order.image.place, self._briefing.root
        if not isinstance(place, FilePlace | SlicePlace):
            return False
        if Path(place.name).exists() or Path(root).exists():
            return False
        text = (
            f"{_here()} does not see {root}, where the job's files are: workers read pictures "
            "themselves, so files must be on a file system that all machines share, or be URLs"
        )
        self._fail(Failure("usage", text))
        return True

    def _fail(self, failure: Failure) -> None:
        self._failure = self._failure or failure
        self._happened.set()


def _failure(error: BaseException) -> Failure:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, NoEndpointError):
        return Failure("endpoint", f"{error} (seen from {_here()})")
    if isinstance(error, UsageError):
        return Failure("usage", f"{error} (on {_here()})")
    if isinstance(error, JoycapError):
        return Failure("fault", str(error))
    return Failure("fault", f"this is a fault of joycap itself: {error!r}")


def _here() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"
