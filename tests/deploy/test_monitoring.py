"""Alerts and dashboard: names that exist, expressions that Prometheus reads, alerts that fire."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from .pages import ask, data_url, gateway, job
from .promql import alerts, check, labels_of, panels
from .tools import found, needs
from fault_server import Asked, Reaction, name_of, say, serving

LOOP = "a red car, " * 40


def promtool(*words: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [found("promtool"), *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dashboard(deploy: Path) -> dict[str, Any]:
    path = deploy / "monitoring" / "grafana" / "dashboards" / "joycap.json"
    whole: dict[str, Any] = json.loads(path.read_text())
    return whole


@needs("promtool")
def test_promtool_accepts_the_rules_and_the_config(deploy: Path, tmp_path: Path) -> None:
    promtool("check", "rules", "alerts.yml", cwd=deploy / "monitoring")
    # The key's file is the container's.
    key = tmp_path / "key"
    key.write_text("key")
    config = (deploy / "monitoring" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        config.replace("/run/secrets/gateway-metrics-key", str(key))
    )
    shutil.copy(deploy / "monitoring" / "alerts.yml", tmp_path)
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)


@needs("promtool")
def test_alerts_fire_when_they_should_and_only_then(deploy: Path, tmp_path: Path) -> None:
    shutil.copy(deploy / "monitoring" / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)

    promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_every_alert_is_tried_and_says_what_to_do(deploy: Path) -> None:
    groups = yaml.safe_load((deploy / "monitoring" / "alerts.yml").read_text())["groups"]
    tried = yaml.safe_load(Path(__file__).with_name("alerts_test.yml").read_text())["tests"]
    names = {one["alertname"] for test in tried for one in test["alert_rule_test"]}
    rules = [rule for group in groups for rule in group["rules"]]

    assert names == {rule["alert"] for rule in rules}
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("critical", "warning")


@needs("promtool")
def test_prometheus_can_read_every_query_of_the_dashboard(deploy: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.expr}
        for number, query in enumerate(panels(deploy))
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))

    promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_our_metrics_and_labels_that_are_asked_for_are_those_that_are_served(
    deploy: Path, tmp_path: Path
) -> None:
    def script(asked: Asked) -> Reaction:
        if asked.attempt == 1:
            return say(LOOP)
        # Over some seconds, so that there is a pace to guess the end by.
        return say(name_of(asked.color), delay=1.5 * (asked.color[0] % 7))

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (number, 9, 9)).save(pictures / f"{number}.png")
    with serving(script) as server:
        server.gauges = (1, 0)
        with gateway(server.url, tmp_path, "p" * 24) as page:
            ask(page, data_url((7, 9, 9)))
            real = labels_of(page.read())
        with job(server.url, pictures, "--no-check") as page:
            page.wait(lambda text: 'joycap_tasks_total{outcome="ok"} 3.0' in text)
            real |= labels_of(page.wait(lambda text: "joycap_eta_seconds" in text))

    check([*panels(deploy), *alerts(deploy)], real, "joycap_")


def test_ids_of_panels_are_their_own_and_none_covers_another(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells

    assert len(ids) == len(set(ids))
    assert dashboard["uid"] == "joycap"


def test_grafana_is_given_the_datasource_and_the_folder_that_the_dashboard_needs(
    deploy: Path, dashboard: dict[str, Any]
) -> None:
    home = deploy / "monitoring" / "grafana" / "provisioning"
    source = yaml.safe_load((home / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((home / "dashboards" / "joycap.yml").read_text())["providers"][0]
    compose = yaml.safe_load((deploy / "docker" / "compose.yaml").read_text())["services"]
    mounted = {volume.split(":")[1] for volume in compose["grafana"]["volumes"]}
    variable = dashboard["templating"]["list"][0]

    assert (source["url"], source["isDefault"]) == ("http://prometheus:9090", True)
    assert provider["options"]["path"] in mounted
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_jobs_that_are_scraped_are_those_that_are_asked_for(deploy: Path) -> None:
    config = yaml.safe_load((deploy / "monitoring" / "prometheus.yml").read_text())
    compose = yaml.safe_load((deploy / "docker" / "compose.yaml").read_text())["services"]
    jobs = {one["job_name"]: one for one in config["scrape_configs"]}
    expressions = " ".join(query.expr for query in (*panels(deploy), *alerts(deploy)))

    assert set(jobs) == {"vllm", "joycap-gateway", "joycap-caption"}
    assert {name for name in jobs if f'job="{name}"' in expressions} <= set(jobs)
    for target in ("engine:8000", "gateway:8080"):
        host, _, port = target.partition(":")
        assert compose[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert any(target in one["static_configs"][0]["targets"] for one in jobs.values()
                   if "static_configs" in one)  # fmt: skip
    assert "--metrics-port=0.0.0.0:9100" in compose["caption"]["command"]
