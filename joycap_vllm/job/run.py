"""Runs a job: images flow in as the fleet takes them, outcomes flow to the journal, then out."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import ImageError, JoycapError, NoEndpointError
from joycap_vllm.images import Prepared
from joycap_vllm.job.agenda import Agenda
from joycap_vllm.job.collecting import seldom_collecting
from joycap_vllm.job.crew import Asked, Crew, Hire, Load, Order, own_crew
from joycap_vllm.job.filling import values_for
from joycap_vllm.job.journal import Journal, make_line
from joycap_vllm.job.plan import Plan, PlannedImage, handed_out
from joycap_vllm.job.problems import Problem
from joycap_vllm.job.progress import Progress
from joycap_vllm.job.records import Record
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.job.stop import Stop
from joycap_vllm.job.trouble import Trouble
from joycap_vllm.job.writers import Writers
from joycap_vllm.job.writing import write_captions
from joycap_vllm.prompts import Prompt, ask

_GRACE = 0.5  # seconds
_LOOK = 0.25  # seconds between two looks of those who show the progress


class Watcher(Protocol):
    """Whoever shows the progress."""

    def __call__(self, progress: Progress) -> None:
        """Called several times a second while the job runs, and once at its end."""


async def run_job(
    plan: Plan,
    agenda: Agenda,
    journal: Journal,
    progress: Progress,
    *,
    stop: Stop,
    ready: Callable[[], None],
    watch: Watcher,
    say: Callable[[str], None],
    hire: Hire = own_crew,
) -> None:
    """Runs what the plan has left to do; `progress` tells all about it afterwards.

    Args:
        plan: How each image is asked and written.
        agenda: What is to do.
        journal: Where outcomes go.
        progress: Counts, filled in.
        stop: Asked once, no new image is begun; asked twice, what is in flight is dropped.
        ready: Called once the endpoints have passed their check and work begins.
        watch: Shown the progress.
        say: Told what users should know.
        hire: Gets who asks: this process, or others.

    Raises:
        NoEndpointError: No endpoint could be reached, at the start or for the whole patience, or
            far more glitches come than usual.
        OutputError: The journal cannot be written; what was synced is kept.
    """
    settings = plan.settings
    progress.waiting_for = "the servers to pass their check"
    async with hire(settings) as crew:
        ready()
        progress.start()
        job = _Run(plan, agenda, progress, crew, journal)
        crew.on_answer = job.on_answer
        ticker = asyncio.create_task(_tick(job, stop, watch, say))
        work = asyncio.create_task(job.feed(stop))
        hurry = asyncio.create_task(stop.twice())
        try:
            with seldom_collecting():
                await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ticker, hurry, work):
                task.cancel()
            await asyncio.gather(ticker, hurry, work, return_exceptions=True)
            job.close()
            job.tell(say)
            progress.hedged = crew.look().hedged
            watch(progress)
        if not work.cancelled():
            work.result()


async def _tick(job: _Run, stop: Stop, watch: Watcher, say: Callable[[str], None]) -> None:
    while True:
        job.look()
        job.tell(say)
        watch(job.progress)
        if stop.asked and job.is_cut_off:
            stop()  # nothing that is in flight can be finished
        await asyncio.sleep(_LOOK)


class _Run:
    """One run of a job."""

    def __init__(
        self,
        plan: Plan,
        agenda: Agenda,
        progress: Progress,
        crew: Crew,
        journal: Journal,
    ) -> None:
        self.progress = progress
        self._plan = plan
        self._agenda = agenda
        self._settings: JobSettings = plan.settings
        self._fingerprints = plan.settings.fingerprints()
        self._crew = crew
        self._load = Load()
        self._journal = journal
        self._trouble = Trouble(plan.settings.max_glitch_rate)
        self._writers = Writers()
        self._active: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._broken: JoycapError | None = None

    def close(self) -> None:
        """Waits for writes that have begun."""
        self._writers.close()

    def tell(self, say: Callable[[str], None]) -> None:
        """Says what the crew has to say."""
        news = self._crew.news
        while news:
            say(news.popleft())

    @property
    def is_cut_off(self) -> bool:
        """Whether no endpoint can be reached at this moment."""
        return self._load.down

    def look(self) -> None:
        """Brings the progress' picture of the crew up to date."""
        load = self._load = self._crew.look()
        self.progress.in_flight = load.in_flight
        self.progress.capacity = load.capacity
        self.progress.queue = load.queue
        self.progress.limit = load.limit
        self.progress.hedged = load.hedged
        self.progress.endpoints = load.endpoints
        self.progress.waiting_for = load.state or ("" if self._active else "the next images")

    async def feed(self, stop: Stop) -> None:
        """Begins images while there is room, until the plan's end or a reason to stop."""
        try:
            while not stop.asked and self._broken is None:
                chunk = await self._agenda.take()
                if not chunk and self._agenda.ended:
                    break
                chunk.reverse()
                while chunk:  # nothing here keeps an image that has begun
                    await self._wait_for_room(stop)
                    if stop.asked or self._broken is not None:
                        break
                    self._begin(chunk.pop())
            self._crew.no_more()
            while self._active and self._broken is None:
                await self._wait_for_one()
            if self._active:  # what is answered already is worth the moment that recording takes
                await asyncio.wait(self._active, timeout=_GRACE)
        finally:
            for task in self._active:
                task.cancel()
            await asyncio.gather(*self._active, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    def _begin(self, planned: PlannedImage) -> None:
        task = asyncio.create_task(self._image(planned))
        self._active.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._room.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and self._broken is None:
            self._broken = _first_cause(error)

    async def _wait_for_room(self, stop: Stop) -> None:
        while not stop.asked and self._broken is None:
            if len(self._active) < self._crew.room:
                return
            await self._wait_for_one()

    async def _wait_for_one(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _image(self, planned: PlannedImage) -> None:
        done = dict(planned.done)
        outcomes: dict[str, Outcome] = {}
        if planned.todo:
            order = await self._order(planned)
            planned = planned.without_bytes()
            asking = self._crew.ask(order, partial(self._told, planned, outcomes))
            del order  # its bytes are used up long before the answers come
            try:
                await asking
            except ImageError as error:
                outcomes = await self._fail(planned, str(error), done)
            outcomes = {p.name: outcomes[p.name] for p in planned.todo if p.name in outcomes}
        self.progress.add_earlier("ok", planned.skipped, images=0 if outcomes else 1)
        for name, record in done.items():
            if name not in outcomes:
                self.progress.add_earlier(record.outcome)
        for outcome in outcomes.values():
            self.progress.add(outcome)
        if outcomes:
            self.progress.add_image()
        await self._write(planned, done, outcomes)

    async def _order(self, planned: PlannedImage) -> Order:
        todo = planned.todo
        if any(prompt.template for prompt in todo):  # whose variables may stand in files
            texts = await asyncio.to_thread(self._texts, planned)
        else:
            texts = self._texts(planned)
        known = {name: record.sha256 for name, record in planned.done.items()}
        return Order(
            planned.image,
            tuple(
                Asked(prompt, text, planned.earlier.get(prompt.name, 0), known.get(prompt.name))
                for prompt, text in zip(todo, texts, strict=True)
            ),
        )

    async def _told(
        self,
        planned: PlannedImage,
        outcomes: dict[str, Outcome],
        asked: Asked,
        outcome: Outcome,
        facts: Prepared,
    ) -> None:
        key, name = planned.image.key, asked.prompt.name
        if outcome.outcome != "ok":
            self.progress.problems.add(
                Problem(key, outcome.outcome, outcome.why, outcome.glitch, name)
            )
        await self._record(planned, asked.prompt, outcome, facts, asked.text)
        outcomes[name] = outcome
        if outcome.outcome == "failed":
            endpoint = outcome.attempts[-1].endpoint if outcome.attempts else ""
            self._note((key, name), endpoint, "failed", outcome.why)

    def on_answer(self, key: str, prompt: str, attempt: Attempt, why: str) -> None:
        """Looks at every answer; requests that break on the way are the fleet's to deal with."""
        self._note((key, prompt), attempt.endpoint, attempt.glitch, why)

    def _note(self, task: tuple[str, str], endpoint: str, kind: str | None, why: str) -> None:
        trouble = self._trouble.note(task, endpoint, kind, why)
        if trouble is not None and self._broken is None:
            self._broken = NoEndpointError(f"{trouble}. {_way_out(self._settings)}")
            self._room.set()

    async def _fail(
        self, planned: PlannedImage, why: str, done: dict[str, Record]
    ) -> dict[str, Outcome]:
        outcomes = {}
        self.progress.problems.add(Problem(planned.image.key, "failed", why))
        for prompt in planned.todo:
            record = done.get(prompt.name)
            if record is not None and (await asyncio.to_thread(record.whole)).get("why") == why:
                continue  # it failed so before
            outcomes[prompt.name] = Outcome("failed", None, why=why)
            await self._record(planned, prompt, outcomes[prompt.name], None, None)
        return outcomes

    async def _record(
        self,
        planned: PlannedImage,
        prompt: Prompt,
        outcome: Outcome,
        image: Prepared | None,
        text: str | None,
    ) -> None:
        varies = prompt.template or bool(prompt.choices)
        await self._journal.append(
            make_line(
                key=planned.image.key,
                prompt=prompt.name,
                fingerprint=self._fingerprints[prompt.name],
                outcome=outcome,
                image=image,
                asked=text if varies else None,
                stem=planned.stem,
                now=time.time(),
            )
        )

    def _texts(self, planned: PlannedImage) -> list[str]:
        key = planned.image.key
        return [ask(prompt, key, values_for(planned, prompt)) for prompt in planned.todo]

    async def _write(
        self, planned: PlannedImage, done: dict[str, Record], outcomes: dict[str, Outcome]
    ) -> None:
        if not self._plan.beside:
            return
        fresh = {
            name: outcome.caption
            for name, outcome in outcomes.items()
            if outcome.caption and handed_out(self._settings, outcome.outcome)
        }
        earlier = {name: record for name, record in done.items() if name not in outcomes}
        await self._writers.run(
            lambda: write_captions(self._plan, planned, earlier, fresh, self.progress)
        )


def _way_out(settings: JobSettings) -> str:
    state = settings.state
    folder = shlex.quote(str(state.parent if state.name == ".joycap" else state))
    again = (
        ", and with --again glitched --again failed also asks again what went wrong (or: joycap "
        f"retry {folder} --only glitched)"
    )
    return (
        "The job stops before more is wasted; all it has is kept. Look at the server (joycap "
        "doctor --base-url URL) and mend it. Then the same command goes on"
        f"{again if settings.only is None else ' with what is left'}. --max-glitch-rate, now "
        f"{settings.max_glitch_rate:g}, sets how many are too many; off never stops"
    )


def _first_cause(error: BaseException) -> JoycapError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, JoycapError):
        return error
    return JoycapError(f"this is a fault of joycap itself: {error!r}")
