"""A job's figures for Prometheus, on a port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from joycap_vllm.errors import UsageError
from joycap_vllm.job.progress import Progress

_LOOK = 1.0  # seconds between two looks at the figures
_OUTCOMES = ("ok", "glitched", "failed", "skipped")


def read_address(text: str) -> tuple[str, int]:
    """`9100` as this machine's own address and the port, `0.0.0.0:9100` as both.

    Raises:
        UsageError: It is neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--metrics-port takes a port, or HOST:PORT, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextlib.asynccontextmanager
async def metrics_served(address: str | None, progress: Progress) -> AsyncIterator[None]:
    """Serves `/metrics` within the block; nothing where there is no address.

    Args:
        address: As `read_address` takes it.
        progress: The job's; it is looked at in the event loop only.

    Raises:
        UsageError: The address is none or is taken, or the extra `metrics` is not installed.
    """
    if address is None:
        yield
        return
    host, port = read_address(address)
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise UsageError(
            "--metrics-port needs an extra: pip install 'joycap-vllm[metrics]'"
        ) from error
    shown = _Shown(progress)
    registry = CollectorRegistry()
    registry.register(shown)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {address} cannot be used: {error.strerror or error}"
        ) from error
    looking = asyncio.create_task(_look(shown, progress))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


async def _look(shown: _Shown, progress: Progress) -> None:
    while True:
        shown.look(progress)
        await asyncio.sleep(_LOOK)


class _Shown:
    """The latest figures, as Prometheus asks for them, from a thread of its own."""

    def __init__(self, progress: Progress) -> None:
        self.look(progress)

    def look(self, progress: Progress) -> None:
        """Takes the figures of this moment."""
        self.figures = progress.figures()
        self.endpoints = progress.endpoints

    def describe(self) -> list[Any]:
        """Nothing: what is shown depends on nothing but the figures."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every figure; counters end in `_total`, units are in the names."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        told = self.figures

        def counter(name: str, text: str, values: dict[str, float], label: str = "") -> Any:
            family = CounterMetricFamily(f"joycap_{name}", text, labels=[label] if label else [])
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            return family

        def gauge(name: str, text: str, value: float) -> Any:
            return GaugeMetricFamily(f"joycap_{name}", text, value=value)

        def of_each(name: str, text: str, at: int) -> Any:
            family = GaugeMetricFamily(f"joycap_endpoint_{name}", text, labels=["endpoint"])
            for endpoint in self.endpoints:
                family.add_metric([endpoint[0]], float(endpoint[at]))
            return family

        outcomes = {name: float(getattr(told, name)) for name in _OUTCOMES}
        kinds = {kind: float(count) for kind, count in told.glitches.items()}
        tokens = {kind: float(count) for kind, count in told.tokens.items()}
        yield counter("tasks", "Tasks that have ended.", outcomes, "outcome")
        yield counter("images", "Images that are through.", {"": told.images})
        yield counter("requests", "Requests sent.", {"": told.requests})
        yield counter("retried_tasks", "Tasks that took more requests.", {"": told.retried})
        yield counter("hedged_requests", "Late requests sent twice.", {"": told.hedged})
        yield counter("glitches", "Answers that were rejected.", kinds, "kind")
        yield counter("tokens", "Tokens of all answers.", tokens, "kind")
        yield counter("unwritten", "Captions that could not be written.", {"": told.unwritten})
        yield gauge("in_flight_requests", "Requests under way.", told.in_flight)
        yield gauge("in_flight_limit", "Requests that may be under way.", told.capacity)
        yield of_each("in_flight_requests", "Requests under way at an endpoint.", 1)
        yield of_each("in_flight_limit", "Requests that may be under way there.", 2)
        yield of_each("up", "Whether an endpoint takes requests.", 3)
        yield gauge("running_requests", "Requests the servers work on.", told.running or 0)
        yield gauge("waiting_requests", "Requests that queue at the servers.", told.waiting or 0)
        yield gauge(
            "tasks_per_second", "Tasks that ended a second, of late.", told.tasks_per_second
        )
        if told.total is not None:
            yield gauge("tasks_planned", "Tasks in all.", told.total)
        if told.eta_seconds is not None:
            yield gauge("eta_seconds", "What the rest will take.", told.eta_seconds)
