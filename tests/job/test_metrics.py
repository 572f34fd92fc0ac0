"""A job's figures on a port, as Prometheus reads them."""

from __future__ import annotations

import socket
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from joycap_vllm.errors import UsageError
from joycap_vllm.job.metrics import metrics_served, read_address
from joycap_vllm.job.progress import Progress

from .helping import LOOP, color_of, joycap, make_pictures
from fault_server import Asked, Reaction, say, serving, truthful


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_running_job_shows_captions_glitches_and_what_is_in_flight(tmp_path: Path) -> None:
    make_pictures(tmp_path, 3)
    port, seen = free_port(), dict[tuple[str, ...], float]()

    def script(asked: Asked) -> Reaction:
        if asked.color == color_of(0) and asked.attempt == 1:
            return say(LOOP)
        if asked.color == color_of(2):
            return replace(truthful(asked), delay=2.5)
        return truthful(asked)

    with serving(script) as server:
        job = threading.Thread(
            target=lambda: joycap(
                "caption", tmp_path, "--base-url", server.url, "--no-check", "--metrics-port",
                str(port),
            )
        )  # fmt: skip
        job.start()
        while seen.get(("joycap_tasks_total", "ok")) != 2:
            try:
                seen = scraped(port)
            except OSError:
                assert job.is_alive()
        job.join()

    assert seen["joycap_glitches_total", "repetition"] == 1
    assert seen["joycap_retried_tasks_total",] == 1
    assert seen["joycap_requests_total",] == 3
    assert seen["joycap_in_flight_requests",] == 1
    assert seen["joycap_in_flight_limit",] >= 1
    assert seen["joycap_endpoint_in_flight_requests", server.url] == 1
    assert seen["joycap_endpoint_in_flight_limit", server.url] >= 1
    assert seen["joycap_endpoint_up", server.url] == 1
    assert seen["joycap_tasks_planned",] == 3
    with pytest.raises(OSError):
        scraped(port)


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--metrics-port {port} cannot be used"):
            async with metrics_served(str(port), Progress()):
                pass


@pytest.mark.parametrize(
    ("text", "address"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:9", ("0.0.0.0", 9)), ("[::1]:9", ("::1", 9))],
)
def test_an_address_is_this_machines_own_unless_told(text: str, address: tuple[str, int]) -> None:
    assert read_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "70000", "host:", "1.5"])
def test_what_is_no_port_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="takes a port"):
        read_address(text)
