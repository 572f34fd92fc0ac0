"""compose.yaml: the engine as `joycap serve` would start it, and nothing open to others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.server import command as commands
from joycap_vllm.server.docker import INSIDE_TEMPLATE, docker_argv
from joycap_vllm.server.hardware import Hardware
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import DEFAULT_MODEL, shape_of
from joycap_vllm.server.values import Plan, ServeOptions


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    yaml = importlib.import_module("yaml")
    data: dict[str, Any] = yaml.safe_load((deploy / "docker" / "compose.yaml").read_text())
    return data


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The plan for vLLM's image, before a GPU's own flags."""
    machine = Hardware((), cores=8, ram=64 << 30)
    options = ServeOptions(engine="docker")
    return make_plan(machine, commands.docker(), shape_of(DEFAULT_MODEL), options)


def test_the_engine_is_started_as_joycap_serve_would(compose: dict[str, Any], plan: Plan) -> None:
    argv = docker_argv(plan, plan.replicas[0], {})
    image = argv.index(compose["services"]["engine"]["image"])
    model, *flags = compose["services"]["engine"]["command"]
    split = [word for flag in flags for word in flag.split("=", 1)]

    assert (model, *split) == argv[image + 1 :]


def test_the_engine_gets_the_planned_variables_and_the_template(
    compose: dict[str, Any], plan: Plan, deploy: Path
) -> None:
    engine = compose["services"]["engine"]
    source, inside, mode = engine["volumes"][1].split(":")

    assert {flag.name: flag.value for flag in plan.env}.items() <= engine["environment"].items()
    assert (deploy / "docker" / source).resolve().is_file()
    assert (inside, mode) == (INSIDE_TEMPLATE, "ro")


def test_the_gateways_command_uses_flags_that_exist(
    compose: dict[str, Any], check_command: Callable[[list[str]], None]
) -> None:
    words = compose["services"]["gateway"]["command"]

    check_command(words)
    assert any(word.startswith("--keys-file=") for word in words)


def test_every_port_is_bound_to_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_has_a_healthcheck_that_asks_its_own_port(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        inside = service["ports"][0].rpartition(":")[2]
        assert f"http://127.0.0.1:{inside}/health" in service["healthcheck"]["test"][-1]
        compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_a_containers_grace_outlasts_what_its_process_waits_for(compose: dict[str, Any]) -> None:
    waits = {"engine": 60, "gateway": 30}
    for name, wait in waits.items():
        assert int(compose["services"][name]["stop_grace_period"].rstrip("s")) > wait
