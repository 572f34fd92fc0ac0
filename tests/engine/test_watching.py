"""A real Prometheus over a real vLLM, gateway and job: it answers all that the dashboard asks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Engine, free_port
from deploy.pages import Page, ask, data_url, gateway, job
from deploy.promql import Query, alerts, check, labels_of, panels
from deploy.tools import found, needs

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DRAW = DEPLOY.parent / "scripts" / "draw_pictures.py"
KEY = "p" * 24
# The nano model's answers are good ones, so that nothing is counted here.
NOTHING = "glitches_total"


def test_vllms_metrics_and_labels_that_are_asked_for_are_those_that_it_shows(
    engine: Engine,
) -> None:
    page = Page(urlsplit(engine.url).port or 0).read()
    real = labels_of(page)

    check([*panels(DEPLOY), *alerts(DEPLOY)], real, "vllm:")
    reasons = {
        sample.labels["finished_reason"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "vllm:request_success_total"
    }
    assert "length" in reasons  # which an alert selects


@contextlib.contextmanager
def prometheus(folder: Path, targets: dict[str, int]) -> Iterator[str]:
    """Prometheus with our config, but for where things are; its URL."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    (folder / "key").write_text(KEY)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "monitoring" / "alerts.yml")]
    for one in config["scrape_configs"]:
        one.pop("dns_sd_configs", None)
        one["static_configs"] = [{"targets": [f"127.0.0.1:{targets[one['job_name']]}"]}]
        if "authorization" in one:
            one["authorization"]["credentials_file"] = str(folder / "key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    words = [
        found("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str, query: Query) -> bool:
    """Whether Prometheus finds anything."""
    try:
        told = httpx2.get(f"{url}/api/v1/query", params={"query": query.expr}).json()
    except httpx2.TransportError:
        return False  # it starts
    assert told["status"] == "success", (query, told)
    return bool(told["data"]["result"])


@needs("prometheus")
def test_prometheus_answers_every_query_of_the_dashboard(engine: Engine, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw = [sys.executable, str(DRAW), str(pictures), "--count", "150", "--seed", "5"]
    subprocess.run(draw, check=True, capture_output=True)
    open_queries = [query for query in panels(DEPLOY) if NOTHING not in query.expr]
    assert len(open_queries) >= 50
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(gateway(engine.url, tmp_path, KEY))
        work = stack.enter_context(job(engine.url, pictures, "--concurrency", "1"))
        ports = {
            "vllm": urlsplit(engine.url).port or 0,
            "joycap-gateway": page.port,
            "joycap-caption": work.port,
        }
        url = stack.enter_context(prometheus(tmp_path, ports))
        until = time.monotonic() + 90
        number = 0
        while open_queries:
            assert time.monotonic() < until, [query.where for query in open_queries]
            ask(page, data_url((number % 250, 90, 120)))
            number += 1
            open_queries = [query for query in open_queries if not answers(url, query)]
        told = httpx2.get(f"{url}/api/v1/rules").json()["data"]["groups"]
        health = {rule["name"]: rule["health"] for group in told for rule in group["rules"]}

        assert set(health.values()) <= {"ok", "unknown"}, health
        assert len(health) == len(alerts(DEPLOY))
