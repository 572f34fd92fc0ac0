"""`joycap serve` as a process: serves until a signal says stop, or the last server is given up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from joycap_vllm.server.engine import engine
from joycap_vllm.server.launches import Record
from joycap_vllm.server.states import Change
from joycap_vllm.server.values import Plan

STOPPED, INTERRUPTED = 0, 130


async def serve_until_stopped(
    plan: Plan,
    *,
    on_line: Callable[[str], None],
    on_ready: Callable[[tuple[str, ...]], None],
    on_change: Callable[[Change], None] = lambda _: None,
    record: Record | None = None,
) -> int:
    """Serves until SIGINT, SIGTERM or SIGHUP; the first lets requests finish, a second ends all.

    Args:
        on_line: Takes what users should read.
        on_ready: Takes the base URLs once every server has passed its proof.
        on_change: Takes each change of a server's state.
        record: Where the servers' states are kept for others to read; None: where they look.

    Returns:
        The exit code: 0 after a stop while serving, 130 after one that came before.

    Raises:
        EngineError: A server did not start, or the last one keeps dying.
        NoEndpointError: A server does not caption as JoyCaption should.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (a coroutine that runs is some task's)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
            continue  # as nohup wants it
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    ready = False
    with record or Record(plan.shape.model) as kept:
        for replica in plan.replicas:
            kept.begin(replica.base_url)

        def changed(change: Change) -> None:
            kept.note(change)
            on_change(change)

        try:
            async with engine(plan, on_line=on_line, on_change=changed) as servers:
                ready = True
                on_ready(servers.base_urls)
                raise await servers.wait()
        except asyncio.CancelledError:
            return STOPPED if ready else INTERRUPTED
