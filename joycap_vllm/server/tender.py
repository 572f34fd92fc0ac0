"""Looks after one replica: starts it, proves it, and starts it again when it dies.

    starting --> ready --> died --> (pause) --> starting ...

A server that has never been ready is not started again, since what is wrong with its flags, its
weights or its model does not mend itself; but out of memory is answered once by a smaller plan.
One that has been ready is started again after 1, 2, 4 ... seconds, until it has died too often in a
row; one that lives on and answers nothing is killed first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from time import monotonic, time

import httpx2

from joycap_vllm.errors import EngineError, NoEndpointError
from joycap_vllm.server.process import Process, start
from joycap_vllm.server.pulse import until_hung
from joycap_vllm.server.smaller import is_memory, smaller
from joycap_vllm.server.states import Change, State
from joycap_vllm.server.values import Plan, Replica

HEALTH_SECONDS = 0.5
DEATH_SECONDS = 2.0  # that a process which breaks connections may take to end
LONGEST_PAUSE = 60.0  # seconds
STEADY_SECONDS = 300.0  # of serving after which earlier deaths are forgotten


class Tender:
    """The care of one replica.

    Args:
        plan: What it is part of.
        replica: The server.
        on_line: Takes the lines of its log that matter.
        on_change: Takes each change of its state.

    Attributes:
        replica: The server as it is started now; smaller than planned where memory was short.
        state: What it is about.
        was_ready: Set once it has been ready.
        restarts: How often it was started again.
    """

    def __init__(
        self,
        plan: Plan,
        replica: Replica,
        on_line: Callable[[str], None],
        on_change: Callable[[Change], None],
    ) -> None:
        self.replica = replica
        self.state = State.STOPPED
        self.was_ready = asyncio.Event()
        self.restarts = 0
        self._plan = plan
        self._on_line = on_line
        self._on_change = on_change
        self._process: Process | None = None
        self._deaths = 0

    async def run(self) -> None:
        """Looks after it until it is to be given up.

        Raises:
            EngineError: It did not start, or keeps dying; in its own last words.
            NoEndpointError: It serves, and does not caption as JoyCaption should.
        """
        while True:
            error = await self._live()
            if not self.was_ready.is_set():
                self._shrink(error)
                continue
            self._deaths += 1
            self._turn(State.DIED, str(error))
            if self._deaths > self._plan.restarts:
                self._turn(State.GIVEN_UP, str(error))
                if self._deaths == 1:
                    raise error
                raise EngineError(f"it died {self._deaths} times in a row; the last time: {error}")
            pause = min(self._plan.pause * 2 ** (self._deaths - 1), LONGEST_PAUSE)
            self._on_line(f"{error}\nstarting it again in {pause:g} s")
            await asyncio.sleep(pause)
            self.restarts += 1

    @property
    def leader(self) -> int | None:
        """The process that leads its group; None while it has none."""
        return None if self._process is None else self._process.leader

    async def stop(self) -> None:
        """Lets it finish what is in flight, and ends it."""
        if self._process is not None:
            await self._process.stop()
        if self.state is not State.GIVEN_UP:
            self._turn(State.STOPPED)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> EngineError:
        """One life of the server, from its start to its death."""
        try:
            process = await start(self._plan, self.replica, self._on_line)
        except EngineError as error:  # such as for want of processes, which may pass
            return error
        self._process = process
        self._turn(State.STARTING)
        try:
            await _ready(process, self._plan.start_timeout)
            if self._plan.check and (death := await _unless_dead(process, self._prove())):
                return death
        except NoEndpointError as error:
            if not self.was_ready.is_set():
                raise
            await process.stop()
            return EngineError(str(error))
        except EngineError as error:
            await process.stop()
            return error
        self._turn(State.READY)
        self.was_ready.set()
        since = monotonic()
        death = await self._end_of(process)
        await process.stop()  # for what it leaves elsewhere
        if monotonic() - since > STEADY_SECONDS:
            self._deaths = 0
        return death

    async def _end_of(self, process: Process) -> EngineError:
        """How the server dies, or hangs, in which case it is killed."""
        plan = self._plan
        looking = asyncio.create_task(
            until_hung(self.replica.base_url, plan.served, plan.api_key, plan.pulse)
        )
        dying = asyncio.create_task(process.died())
        try:
            await asyncio.wait({looking, dying}, return_when=asyncio.FIRST_COMPLETED)
            if dying.done():
                return dying.result()
            process.kill()
            return looking.result()
        finally:
            for task in (looking, dying):
                task.cancel()
            await asyncio.gather(looking, dying, return_exceptions=True)

    def _shrink(self, error: EngineError) -> None:
        """Plans less memory for it.

        Raises:
            EngineError: This is another fault, or the second of the kind.
        """
        less = smaller(self.replica, str(error), self._plan.raw) if is_memory(str(error)) else None
        if less is None or self.replica.shrunk:
            self._turn(State.GIVEN_UP, str(error))
            raise error
        self._on_line(f"{error}\nnot enough memory: starting again, once, with {less.words}")
        self.replica = replace(less.replica, shrunk=True)

    async def _prove(self) -> None:
        from joycap_vllm.fleet.proof import prove, require

        plan = self._plan
        proof = await prove(
            self.replica.base_url, model=plan.served, api_key=plan.api_key, twice=True
        )
        require([proof])
        tokens = "" if proof.image_tokens is None else f" ({proof.image_tokens} image tokens)"
        self._on_line(f"test picture passed{tokens}: {' '.join(proof.answer.split())}")
        if proof.cached:
            self._on_line(f"asked again, {proof.cached} tokens of it came from the cache")
        elif proof.cached is not None:
            self._on_line("asked again, none of it came from the cache: each prompt costs in full")

    def _turn(self, state: State, why: str = "") -> None:
        self.state = state
        gpu = self.replica.gpu
        self._on_change(
            Change(
                url=self.replica.base_url,
                state=state,
                why=why,
                gpu="" if gpu is None else f"{gpu.index} ({gpu.name})",
                log="" if self._process is None else str(self._process.log),
                restarts=self.restarts,
                at=time(),
            )
        )


async def _unless_dead(process: Process, work: Coroutine[None, None, None]) -> EngineError | None:
    """Does the work, which fails if the process dies meanwhile; the death then tells why."""
    working = asyncio.create_task(work)
    dying = asyncio.create_task(process.died())
    try:
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and working.exception() is not None:
            await asyncio.wait({dying}, timeout=DEATH_SECONDS)
        if dying.done():
            return dying.result()
        working.result()
        return None
    finally:
        working.cancel()
        dying.cancel()
        await asyncio.gather(working, dying, return_exceptions=True)


async def _ready(process: Process, seconds: float) -> None:
    """Asks for health until it is given; a death ends the waiting at once.

    Raises:
        EngineError: It died, or was not ready in time.
    """
    death = asyncio.ensure_future(process.died())
    health = asyncio.ensure_future(_healthy(process.replica))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({death, health}, return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            raise death.result()
        await health
        process.serving = True
    except TimeoutError:
        raise EngineError(
            f"vLLM was not ready within {seconds:.0f} s (--start-timeout); the last that it said: "
            f"{process.last_words}\nlog: {process.log}"
        ) from None
    finally:
        death.cancel()
        health.cancel()


async def _healthy(replica: Replica) -> None:
    url = f"{replica.base_url.removesuffix('/v1')}/health"
    async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(HEALTH_SECONDS)
