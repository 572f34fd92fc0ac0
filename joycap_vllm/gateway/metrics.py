"""What the gateway does, in figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from joycap_vllm.captioner import Captioner, Outcome
from joycap_vllm.gateway.gate import Gate

if TYPE_CHECKING:
    from joycap_vllm.gateway.context import Context

_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
_ELSEWHERE = "other"  # every path that is no door


class Metrics:
    """Counters of one gateway.

    Args:
        context: Whose gauges are shown beside them.
    """

    def __init__(self, context: Context) -> None:
        # Else each has a second line.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._doors: dict[Any, str] = {}
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"joycap_gateway_{name}", text, labels, registry=self._registry)

        self._requests = counter("requests", "Requests by door and status.", "door", "status")
        self._captions = counter("captions", "Captioning tasks by outcome.", "outcome")
        self._attempts = counter("attempts", "Requests to the servers.")
        self._glitches = counter("glitches", "Answers that were rejected.", "kind")
        self._tokens = counter("tokens", "Tokens of all answers.", "kind")
        self._seconds = Histogram(
            "joycap_gateway_request_duration_seconds",
            "Seconds from a request's head to its answer's end.",
            ("door",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_Gauges(context.captioner, context.gate, context.limits.queue))

    def route(self) -> Route:
        """`/metrics`."""

        async def show(_: Request) -> Response:
            figures = generate_latest(self._registry)
            return Response(figures, headers={"Content-Type": CONTENT_TYPE_LATEST})

        return Route("/metrics", show, methods=["GET"])

    def name_doors(self, routes: Iterable[BaseRoute], under: str = "") -> None:
        """Learns which doors there are: by what their paths look like, so that they are few."""
        for route in routes:
            if isinstance(route, Route):
                self._doors.setdefault(route.endpoint, under + route.path)
            elif isinstance(route, Mount):
                self._doors.setdefault(route.app, under + route.path)
                self.name_doors(route.routes, under + route.path)

    def note(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """Counts a request that has ended; its status is 0 where nobody was left to answer."""
        door = self._doors.get(scope.get("endpoint"), _ELSEWHERE)
        self._requests.labels(door, str(status or 499)).inc()
        self._seconds.labels(door).observe(seconds)

    def note_outcome(self, outcome: Outcome) -> None:
        """Counts a task that has ended."""
        self._captions.labels(outcome.outcome).inc()
        self._attempts.inc(len(outcome.attempts))
        for attempt in outcome.attempts:
            if attempt.glitch is not None:
                self._glitches.labels(attempt.glitch).inc()
        usage = outcome.usage
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind).inc(getattr(usage, kind) or 0)


class _Gauges:
    """What is true by now, looked at when Prometheus asks."""

    def __init__(self, captioner: Captioner, gate: Gate, queue: int) -> None:
        self._captioner = captioner
        self._gate = gate
        self._queue = queue

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        fleet, gate = self._captioner.fleet, self._gate
        values = {
            "requests_in_flight": ("Requests for work that are inside.", gate.inside),
            "queue_limit": ("Requests for work that may be inside.", self._queue),
            "held_bytes": ("Bytes of the bodies of all requests inside.", gate.held),
            "draining": ("Whether nothing new is let in.", gate.draining),
            "server_requests_in_flight": ("Requests at the servers.", fleet.in_flight),
            "server_requests_limit": ("Requests that may be at the servers.", fleet.capacity),
        }
        for name, (text, value) in values.items():
            yield GaugeMetricFamily(f"joycap_gateway_{name}", text, value=float(value))
        up = GaugeMetricFamily(
            "joycap_gateway_endpoint_up", "Whether a server takes requests.", labels=["endpoint"]
        )
        for station in fleet.members:
            member = station.member
            up.add_metric([member.name], float(not member.down_why))
        yield up
