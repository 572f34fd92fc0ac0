"""Runs a job: images flow in as the fleet takes them, outcomes flow to the journal, then out."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from joycap_vllm.captioner import Attempt, Captioner, Outcome
from joycap_vllm.errors import ImageError, JoycapError, NoEndpointError
from joycap_vllm.images import Picture, Prepared
from joycap_vllm.job.agenda import Agenda
from joycap_vllm.job.collecting import seldom_collecting
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

    Raises:
        NoEndpointError: No endpoint could be reached, at the start or for the whole patience, or
            far more glitches come than usual.
        OutputError: The journal cannot be written; what was synced is kept.
    """
    settings = plan.settings
    progress.waiting_for = "the servers to pass their check"
    async with Captioner(*settings.urls, options=settings.captioner) as captioner:
        ready()
        progress.start()
        progress.stations = lambda: captioner.fleet.members
        for notice in captioner.notices:
            say(notice)
        job = _Run(plan, agenda, progress, captioner, journal)
        captioner.on_answer = job.on_answer
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
            progress.hedged = captioner.fleet.hedged
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
        captioner: Captioner,
        journal: Journal,
    ) -> None:
        self.progress = progress
        self._plan = plan
        self._agenda = agenda
        self._settings: JobSettings = plan.settings
        self._fingerprints = plan.settings.fingerprints()
        self._captioner = captioner
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
        """Says what the fleet has to say."""
        news = self._captioner.fleet.news
        while news:
            say(news.popleft())

    @property
    def is_cut_off(self) -> bool:
        """Whether no endpoint can be reached at this moment."""
        return self._captioner.fleet.down

    def look(self) -> None:
        """Brings the progress' picture of the fleet up to date."""
        fleet = self._captioner.fleet
        if advice := fleet.advice():
            fleet.news.append(advice)
        self.progress.in_flight = fleet.in_flight
        self.progress.capacity = fleet.capacity
        self.progress.queue = fleet.queue
        self.progress.limit = fleet.bottleneck
        self.progress.hedged = fleet.hedged
        self.progress.waiting_for = fleet.state or ("" if self._active else "the next images")

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
            self._captioner.fleet.no_more()
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
            tasks_each = len(self._settings.prompts)
            ahead = 2 * self._captioner.pool.workers
            if len(self._active) < self._captioner.fleet.capacity / tasks_each + ahead:
                return
            await self._wait_for_one()

    async def _wait_for_one(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _image(self, planned: PlannedImage) -> None:
        done = dict(planned.done)
        outcomes: dict[str, Outcome] = {}
        if planned.todo:
            image = await self._picture(planned)
            planned = planned.without_bytes()
            outcomes = await self._ask(planned, image, done)
        self.progress.add_earlier("ok", planned.skipped, images=0 if outcomes else 1)
        for name, record in done.items():
            if name not in outcomes:
                self.progress.add_earlier(record.outcome)
        for outcome in outcomes.values():
            self.progress.add(outcome)
        if outcomes:
            self.progress.add_image()
        await self._write(planned, done, outcomes)

    async def _picture(self, planned: PlannedImage) -> Picture | str:
        """The picture, or why there is none."""
        image, options = planned.image, self._captioner.options

        def prepare() -> Awaitable[Prepared]:
            return self._captioner.pool.prepare(lambda: image.read(options.limits.file_bytes))

        try:
            prepared = await prepare()
        except ImageError as error:
            return str(error)
        again = prepare if image.is_at_hand else None
        return Picture(prepared, sends=len(planned.todo), again=again)

    async def _ask(
        self, planned: PlannedImage, image: Picture | str, done: dict[str, Record]
    ) -> dict[str, Outcome]:
        todo = list(planned.todo)
        if isinstance(image, str):
            return await self._fail(planned, todo, image, done)
        todo = [p for p in todo if p.name not in done or done[p.name].sha256 != image.facts.sha256]
        if any(prompt.template for prompt in todo):  # whose variables may stand in files
            texts = await asyncio.to_thread(self._texts, planned, todo)
        else:
            texts = self._texts(planned, todo)
        if len(todo) == 1:
            (prompt,) = todo
            return {prompt.name: await self._task(planned, image, prompt, texts[prompt.name])}
        async with asyncio.TaskGroup() as group:
            asked = {
                prompt.name: group.create_task(
                    self._task(planned, image, prompt, texts[prompt.name])
                )
                for prompt in todo
            }
        return {name: task.result() for name, task in asked.items()}

    async def _task(
        self, planned: PlannedImage, image: Picture, prompt: Prompt, text: str
    ) -> Outcome:
        key, earlier = planned.image.key, planned.earlier.get(prompt.name, 0)
        outcome = await self._captioner.outcome(image, prompt, key=key, text=text, earlier=earlier)
        if outcome.outcome != "ok":
            self.progress.problems.add(
                Problem(key, outcome.outcome, outcome.why, outcome.glitch, prompt.name)
            )
        await self._record(planned, prompt, outcome, image, text)
        if outcome.outcome == "failed":
            endpoint = outcome.attempts[-1].endpoint if outcome.attempts else ""
            self._note((key, prompt.name), endpoint, "failed", outcome.why)
        return outcome

    def on_answer(self, key: str, prompt: str, attempt: Attempt, why: str) -> None:
        """Looks at every answer; requests that break on the way are the fleet's to deal with."""
        self._note((key, prompt), attempt.endpoint, attempt.glitch, why)

    def _note(self, task: tuple[str, str], endpoint: str, kind: str | None, why: str) -> None:
        trouble = self._trouble.note(task, endpoint, kind, why)
        if trouble is not None and self._broken is None:
            self._broken = NoEndpointError(f"{trouble}. {_way_out(self._settings)}")
            self._room.set()

    async def _fail(
        self, planned: PlannedImage, todo: list[Prompt], why: str, done: dict[str, Record]
    ) -> dict[str, Outcome]:
        outcomes = {}
        self.progress.problems.add(Problem(planned.image.key, "failed", why))
        for prompt in todo:
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
        image: Picture | None,
        text: str | None,
    ) -> None:
        varies = prompt.template or bool(prompt.choices)
        await self._journal.append(
            make_line(
                key=planned.image.key,
                prompt=prompt.name,
                fingerprint=self._fingerprints[prompt.name],
                outcome=outcome,
                image=None if image is None else image.facts,
                asked=text if varies else None,
                stem=planned.stem,
                now=time.time(),
            )
        )

    def _texts(self, planned: PlannedImage, prompts: list[Prompt]) -> dict[str, str]:
        return {
            prompt.name: ask(prompt, planned.image.key, values_for(planned, prompt))
            for prompt in prompts
        }

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
