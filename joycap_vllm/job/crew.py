"""Who asks about a job's images: this process itself, or others that work for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from joycap_vllm.captioner import Captioner, OnAnswer, Outcome
from joycap_vllm.images import Picture, Prepared
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import SourceImage


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about an image.

    Args:
        prompt: What is asked.
        text: Its exact text.
        earlier: Attempts of earlier runs.
        unless: SHA-256 of the picture of which the answer is known.
    """

    prompt: Prompt
    text: str
    earlier: int = 0
    unless: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An image and all that is asked about it."""

    image: SourceImage
    asked: tuple[Asked, ...]


class Seen(NamedTuple):
    """An endpoint at one moment: requests in flight there, how many may be, whether it is well."""

    endpoint: str
    in_flight: int
    limit: int
    up: bool


@dataclass(frozen=True, slots=True)
class Load:
    """What a crew is doing at one moment; each is as in `Figures` and `Fleet`.

    Args:
        state: Why nothing moves; empty while something does.
        down: Whether no endpoint can be reached, so that nothing in flight can end.
    """

    in_flight: int = 0
    capacity: int = 0
    queue: tuple[int, int] | None = None
    limit: str = ""
    hedged: int = 0
    state: str = ""
    down: bool = False
    endpoints: tuple[Seen, ...] = ()


Told = Callable[[Asked, Outcome, Prepared], Awaitable[None]]


class Crew(Protocol):
    """Asks about images.

    Attributes:
        news: Lines that users should be told, the oldest first.
        on_answer: Told every answer, where it is set.
    """

    news: deque[str]
    on_answer: OnAnswer | None

    @property
    def room(self) -> float:
        """Images that may be under way at once."""

    async def ask(self, order: Order, told: Told) -> None:
        """Asks what is asked about an image, all of it at once.

        Args:
            order: The image; its bytes are let go as soon as they are used.
            told: Called with each question that was asked, its outcome and what the picture is but
                for its data.

        Raises:
            ImageError: There is no picture that can be asked about.
            NoEndpointError: No endpoint can be reached any more.
        """

    def no_more(self) -> None:
        """Nothing new comes."""

    def look(self) -> Load:
        """What it does; to be asked for several times a second."""


Hire = Callable[[JobSettings], AbstractAsyncContextManager[Crew]]


class OwnCrew:
    """This process: a captioner's pool and fleet, as far as both are of use.

    Args:
        captioner: The captioner, open.
        prompts: Questions about an image, at most.
    """

    def __init__(self, captioner: Captioner, prompts: int) -> None:
        self.news = captioner.fleet.news
        self._captioner = captioner
        self._prompts = prompts

    @property
    def on_answer(self) -> OnAnswer | None:
        """Told every answer."""
        return self._captioner.on_answer

    @on_answer.setter
    def on_answer(self, told: OnAnswer | None) -> None:
        self._captioner.on_answer = told

    @property
    def room(self) -> float:
        """Images for every place in the fleet, and a few that are being prepared."""
        captioner = self._captioner
        return captioner.fleet.capacity / self._prompts + 2 * captioner.pool.workers

    async def ask(self, order: Order, told: Told) -> None:
        """As `Crew.ask`."""
        asked, key = order.asked, order.image.key
        pictured = self._picture(order.image, len(asked))
        del order
        picture = await pictured
        todo = [each for each in asked if each.unless != picture.facts.sha256]
        if len(todo) == 1:
            await self._task(key, picture, todo[0], told)
            return
        async with asyncio.TaskGroup() as group:
            for each in todo:
                group.create_task(self._task(key, picture, each, told))

    def no_more(self) -> None:
        """Nothing new comes."""
        self._captioner.fleet.no_more()

    def look(self) -> Load:
        """What it does."""
        fleet = self._captioner.fleet
        if advice := fleet.advice():
            self.news.append(advice)
        return Load(
            in_flight=fleet.in_flight,
            capacity=fleet.capacity,
            queue=fleet.queue,
            limit=fleet.bottleneck,
            hedged=fleet.hedged,
            state=fleet.state,
            down=fleet.down,
            endpoints=tuple(
                Seen(
                    one.member.name, one.member.in_flight, one.member.limit.value, not one.down_why
                )
                for one in fleet.members
            ),
        )

    async def _picture(self, image: SourceImage, sends: int) -> Picture:
        most = self._captioner.options.limits.file_bytes

        def prepare() -> Awaitable[Prepared]:
            return self._captioner.pool.prepare(lambda: image.read(most))

        prepared = await prepare()
        return Picture(prepared, sends=sends, again=prepare if image.is_at_hand else None)

    async def _task(self, key: str, picture: Picture, asked: Asked, told: Told) -> None:
        outcome = await self._captioner.outcome(
            picture, asked.prompt, key=key, text=asked.text, earlier=asked.earlier
        )
        await told(asked, outcome, picture.facts)


@asynccontextmanager
async def own_crew(settings: JobSettings) -> AsyncIterator[Crew]:
    """This process as a job's crew.

    Raises:
        NoEndpointError: No endpoint can be reached, or none passes its check.
    """
    async with Captioner(*settings.urls, options=settings.captioner) as captioner:
        crew = OwnCrew(captioner, len(settings.prompts))
        crew.news.extendleft(reversed(captioner.notices))
        yield crew
