"""What the alerts and the dashboard ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

_NAME = re.compile(r"(?<![\w:])((?:vllm:|joycap_)[a-z0-9_:]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}")
# What Prometheus itself puts on every sample.
OWN = frozenset({"job", "instance"})


@dataclass(frozen=True)
class Query:
    """One expression; `shown` are the labels that its legend or its words name."""

    where: str
    expr: str
    shown: frozenset[str]

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset(name for name, _ in _NAME.findall(self.expr))

    @property
    def grouped(self) -> frozenset[str]:
        """The labels of all `by (...)`."""
        inner = ",".join(_BY.findall(self.expr))
        return frozenset(word.strip() for word in inner.split(",") if word.strip())

    def selected(self) -> Iterable[tuple[str, str]]:
        """Metrics and the labels that they are selected by."""
        for name, matchers in _NAME.findall(self.expr):
            for label in re.findall(r"([a-z_]+)\s*[=!]", matchers):
                yield name, label


def panels(deploy: Path) -> list[Query]:
    """The dashboard's queries, with an interval for Grafana's variable."""
    text = (deploy / "monitoring" / "grafana" / "dashboards" / "joycap.json").read_text()
    return [
        Query(
            panel["title"],
            target["expr"].replace("$__rate_interval", "1m"),
            frozenset(_SHOWN.findall(target["legendFormat"])),
        )
        for panel in json.loads(text)["panels"]
        for target in panel.get("targets", ())
    ]


def alerts(deploy: Path) -> list[Query]:
    """The alerts' expressions."""
    groups = yaml.safe_load((deploy / "monitoring" / "alerts.yml").read_text())["groups"]
    return [
        Query(rule["alert"], rule["expr"],
              frozenset(_SHOWN.findall(" ".join(rule["annotations"].values()))))
        for group in groups
        for rule in group["rules"]
    ]  # fmt: skip


def labels_of(page: str) -> dict[str, set[str]]:
    """The labels of every sample of a /metrics page, by its name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check(queries: Iterable[Query], real: dict[str, set[str]], prefix: str) -> None:
    """Fails where a query names a metric or a label that the real pages do not have."""
    for query in queries:
        mine = {name for name in query.metrics if name.startswith(prefix)}
        assert mine <= set(real), (query.where, mine - set(real))
        for name, label in query.selected():
            if name.startswith(prefix):
                assert label in real[name] | OWN, (query.where, name, label)
        if mine and mine == query.metrics:
            common = set.union(*(real[name] for name in mine)) | OWN
            assert query.grouped <= common, (query.where, query.grouped - common)
            # What is summed up by some labels has these alone.
            assert query.shown <= (query.grouped or common), query.where
