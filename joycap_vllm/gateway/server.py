"""uvicorn as the gateway runs it: guarded connections, and an end that loses no answer."""

from __future__ import annotations

import logging
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from joycap_vllm.gateway.connections import guarded
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.gate import Gate

_DRAIN = 30.0  # seconds that requests in flight get to end
_CLOSE = 5  # seconds for connections to close after that


class GatewayServer(uvicorn.Server):
    """Lets requests in flight end before it goes, and keeps the signal for its caller.

    Args:
        config: uvicorn's.
        gate: Counts the requests, and lets no more in.

    Attributes:
        ended_by: The signal that ended it; None for any other reason.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self.ended_by: int | None = None
        self._gate = gate
        self._until = 0.0

    def drain(self) -> None:
        """Takes no more work, and ends once what is in flight has ended; called again, at once."""
        if self._gate.draining:
            logging.getLogger("uvicorn.error").disabled = True  # what is cut off is no fault
            self.should_exit = self.force_exit = True
            return
        self._gate.draining = True
        self._until = time.monotonic() + _DRAIN

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """As `drain`. uvicorn would raise the signal again while all is being closed."""
        self.ended_by = self.ended_by or sig
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to go; asked ten times a second."""
        gate = self._gate
        if gate.draining and (not gate.inside or time.monotonic() > self._until):
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(app: ASGIApp, context: Context, *, keep_alive: int) -> GatewayServer:
    """A server for the gateway's application.

    Args:
        app: The application.
        context: What it stands on.
        keep_alive: Seconds after which an idle connection is closed.
    """
    config = uvicorn.Config(
        app,
        http=guarded(context.limits),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        # Else whoever asks from this machine chooses the address that its rate is counted under.
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=_CLOSE,
    )
    return GatewayServer(config, context.gate)
