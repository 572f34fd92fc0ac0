"""One level: a client that keeps so many requests in flight, and a span of it that is measured."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from functools import partial

from joycap_vllm.bench.measured import Answered, Measured, Sample, Span, measured
from joycap_vllm.bench.pictures import Pictures
from joycap_vllm.captioner import Captioner, Outcome
from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.prompts import Prompt

_TICK = 0.05  # seconds between two looks at what is in flight
_LOOK = 0.5  # the same, at the servers
_UNUSABLE = 100  # pictures in a row that cannot be used, after which none can
_FILL = 60.0  # most seconds until the span opens, however slow the server is


@dataclass(slots=True)
class Round:
    """A client at work at one level; `measure` or `batch` runs it, once.

    Args:
        joy: The client; its fleet bounds what is in flight.
        pictures: What is sent.
        prompt: What is asked.
        level: Requests in flight that its fleet is set to; None where it finds out.
    """

    joy: Captioner
    pictures: Pictures
    prompt: Prompt
    level: int | None
    answered: list[Answered] = field(default_factory=list)
    _samples: list[Sample] = field(default_factory=list)
    _asking: dict[int, float] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _load: tuple[float | None, float | None] = (None, None)
    _unusable: int = 0
    _left: int | None = None

    async def measure(self, seconds: float) -> Measured:
        """The level's figures over so many seconds.

        The span opens when as many answers came as the level allows at once (`auto` gets the time
        to find its level). Requests go on being sent until all that began in the span are
        answered, so that the last of it fare as the first did.

        Raises:
            NoEndpointError: No endpoint can be reached any more.
            UsageError: None of the pictures can be used.
        """
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._follow_load())
            begun = _now()
            while not self._is_filled(_now() - begun, seconds):
                await self._tick(group)
            self._samples.clear()
            opened, cpu, loop = _now(), time.process_time(), time.thread_time()
            while _now() < opened + seconds:
                await self._tick(group)
            closed = _now()
            cpu, loop = time.process_time() - cpu, time.thread_time() - loop
            samples = tuple(self._samples)
            while any(sent < closed for sent in self._asking.values()):
                await self._tick(group)
            looking.cancel()
            for task in self._tasks.values():
                task.cancel()
        span = Span(opened, closed, cpu, loop, len(os.sched_getaffinity(0)))
        return measured(self.level, span, self.answered, samples)

    async def batch(self, count: int) -> float:
        """Answers a second over so many pictures, from the first read to the last answer.

        Raises:
            NoEndpointError, UsageError: As `measure`.
        """
        self._left, begun = count, _now()
        async with asyncio.TaskGroup() as group:
            while self._left > 0 or self._tasks:
                await self._tick(group)
        good = sum(not one.failed for one in self.answered)
        ended = max((one.ended for one in self.answered), default=_now())
        return good / (ended - begun)

    def _is_filled(self, since: float, seconds: float) -> bool:
        if self.level is None:
            return since >= min(20.0, 1.5 * seconds)
        return len(self.answered) >= self.level or since >= max(_FILL, seconds)

    async def _tick(self, group: asyncio.TaskGroup) -> None:
        fleet = self.joy.fleet
        self._samples.append(Sample(fleet.in_flight, *self._load, full="full" in fleet.state))
        wanted = self._wanted()
        for number in range(wanted):
            if number not in self._tasks:
                task = group.create_task(self._work(number))
                self._tasks[number] = task
                task.add_done_callback(partial(self._ended, number))
        await asyncio.sleep(_TICK)

    def _ended(self, number: int, _: asyncio.Task[None]) -> None:
        del self._tasks[number]

    def _wanted(self) -> int:
        """Pictures on their way: as many as may be asked about, and some that are prepared."""
        most = self.joy.fleet.capacity + 2 * self.joy.pool.workers
        return most if self._left is None else min(most, self._left)

    async def _work(self, number: int) -> None:
        while number < self._wanted():
            if self._left is not None:
                self._left -= 1
            shot = self.pictures.take()
            try:
                image = await self.joy.pool.prepare(shot.read)
            except ImageError as error:
                self._unusable += 1
                if self._unusable >= _UNUSABLE:
                    raise UsageError(f"pictures cannot be used: {shot.key}: {error}") from error
                continue
            self._unusable = 0
            self._asking[number] = _now()
            try:
                self._note(number, await self.joy.outcome(image, self.prompt, key=shot.key))
            finally:
                del self._asking[number]

    def _note(self, number: int, outcome: Outcome) -> None:
        ended, last = _now(), outcome.attempts[-1] if outcome.attempts else None
        sent = ended - last.milliseconds / 1000 if last and not last.error else None
        self.answered.append(
            Answered(
                began=self._asking[number] if sent is None else sent,
                ended=ended,
                glitch=outcome.glitch is not None,
                failed=outcome.why if outcome.outcome == "failed" else "",
                usage=outcome.usage,
            )
        )

    async def _follow_load(self) -> None:
        endpoints = [member.endpoint for member in self.joy.fleet.members]
        endpoints = [endpoint for endpoint in endpoints if endpoint.abilities.metrics]
        while endpoints:
            loads = await asyncio.gather(*(endpoint.load() for endpoint in endpoints))
            known = [load for load in loads if load is not None]
            if known:
                self._load = (sum(load[0] for load in known), sum(load[1] for load in known))
            await asyncio.sleep(_LOOK)


def _now() -> float:
    return asyncio.get_running_loop().time()
