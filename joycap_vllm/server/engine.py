"""Starts the servers of a plan, waits until they serve, and leaves no process behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2

from joycap_vllm.errors import EngineError, UsageError
from joycap_vllm.server.process import Process, start
from joycap_vllm.server.values import Plan, Replica

HEALTH_SECONDS = 0.5


class Engine:
    """The running servers of a plan."""

    def __init__(self, plan: Plan, processes: list[Process]) -> None:
        self.plan = plan
        self._processes = processes

    @property
    def base_urls(self) -> tuple[str, ...]:
        return tuple(replica.base_url for replica in self.plan.replicas)

    async def wait(self) -> EngineError:
        """Waits until the first server dies, and returns the reason."""
        deaths = [asyncio.ensure_future(process.died()) for process in self._processes]
        try:
            done, _ = await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for death in deaths:
                death.cancel()

    def kill(self) -> None:
        """Ends all servers at once, without letting them finish."""
        for process in self._processes:
            process.kill()


@asynccontextmanager
async def engine(plan: Plan, *, on_line: Callable[[str], None]) -> AsyncIterator[Engine]:
    """The servers of a plan, ready and proved; they are stopped on the way out.

    Args:
        on_line: Takes the lines of vLLM's logs that matter, and what the launcher has to say.

    Raises:
        UsageError: The plan cannot be carried out here, or a port is taken.
        EngineError: A server did not start; the text holds its own last error.
        NoEndpointError: A server started and does not caption as JoyCaption should.
    """
    if plan.obstacle is not None:
        raise UsageError(plan.obstacle)
    for replica in plan.replicas:
        check_port(replica)
    processes: list[Process] = []
    try:
        for replica in plan.replicas:
            process = await start(plan, replica, on_line)
            processes.append(process)
        await _all_ready(plan, processes)
        if plan.check:
            await _prove_all(plan, on_line)
        yield Engine(plan, processes)
    finally:
        await _stop_all(processes)


@asynccontextmanager
async def running(plan: Plan, *, on_line: Callable[[str], None]) -> AsyncIterator[tuple[str, ...]]:
    """As `engine`, but gives only the base URLs, "http://127.0.0.1:8000/v1"."""
    async with engine(plan, on_line=on_line) as servers:
        yield servers.base_urls


def check_port(replica: Replica) -> None:
    """Says so before minutes of loading when a port is taken.

    Raises:
        UsageError: Another process listens on the port.
    """
    host = replica.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will bind it: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, replica.port))
        except OSError as error:
            raise UsageError(
                f"port {replica.port} of {host} cannot be used: {error.strerror or error}; "
                "--port takes another"
            ) from error


async def _all_ready(plan: Plan, processes: list[Process]) -> None:
    tasks = [asyncio.ensure_future(_ready(process)) for process in processes]
    try:
        async with asyncio.timeout(plan.start_timeout):
            await asyncio.gather(*tasks)
    except TimeoutError:
        raise EngineError(
            f"vLLM was not ready within {plan.start_timeout:.0f} s; log: {processes[0].log}"
        ) from None
    finally:
        for task in tasks:
            task.cancel()


async def _ready(process: Process) -> None:
    """Asks for health until it is given; a death ends the waiting at once."""
    death = asyncio.ensure_future(process.died())
    health = asyncio.ensure_future(_healthy(process.replica))
    try:
        await asyncio.wait((death, health), return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            raise death.result()
        await health
        process.serving = True
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


async def _prove_all(plan: Plan, on_line: Callable[[str], None]) -> None:
    from joycap_vllm.fleet.proof import prove, require

    proofs = [
        await prove(replica.base_url, model=plan.served, api_key=plan.api_key)
        for replica in plan.replicas
    ]
    require(proofs)
    for proof in proofs:
        tokens = "" if proof.image_tokens is None else f" ({proof.image_tokens} image tokens)"
        on_line(f"test picture passed{tokens}: {' '.join(proof.answer.split())}")


async def _stop_all(processes: list[Process]) -> None:
    """Stops all servers at the same time; to be cancelled meanwhile means: at once."""
    stopping = asyncio.gather(*(process.stop() for process in processes))
    cancelled = False
    while not stopping.done():
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            cancelled = True
            for process in processes:
                process.kill()
    if cancelled:
        raise asyncio.CancelledError
