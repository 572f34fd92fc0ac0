"""compose.yaml: the engine as `joycap serve` would start it, and nothing open to others."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from joycap_vllm.server import command as commands
from joycap_vllm.server.docker import INSIDE_TEMPLATE, docker_argv
from joycap_vllm.server.hardware import Hardware
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import DEFAULT_MODEL, shape_of
from joycap_vllm.server.values import Plan, ServeOptions

from .tools import found, needs


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((deploy / "docker" / "compose.yaml").read_text())
    return data


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The plan for vLLM's image, before a GPU's own flags."""
    machine = Hardware((), cores=8, ram=64 << 30)
    options = ServeOptions(engine="docker")
    return make_plan(machine, commands.docker(), shape_of(DEFAULT_MODEL), options)


@needs("check-jsonschema")
def test_the_schema_of_compose_files_accepts_it(deploy: Path, tmp_path: Path) -> None:
    file = deploy / "docker" / "compose.yaml"
    broken = tmp_path / "compose.yaml"
    broken.write_text(file.read_text().replace("stop_grace_period:", "stop_grace:"))
    words = [found("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]

    for checked, code in ((file, 0), (broken, 1)):
        done = subprocess.run([*words, checked], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout


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


@pytest.mark.parametrize("service", ["gateway", "caption"])
def test_joycaps_own_commands_use_flags_that_exist(
    compose: dict[str, Any], check_command: Callable[[list[str]], None], service: str
) -> None:
    one = compose["services"][service]
    check_command([*one.get("entrypoint", ["joycap"])[1:], *one["command"]])


def test_what_the_readme_runs_in_place_of_a_services_own_words_is_a_command(
    compose: dict[str, Any], deploy: Path, check_command: Callable[[list[str]], None]
) -> None:
    """Words behind a service's name replace its `command`, and stand behind its `entrypoint`."""
    readme = (deploy / "docker" / "README.md").read_text()
    lines = re.findall(r"docker compose run (?:--[\w-]+ )*(\w+)(.*)", readme)
    given = [(service, words.split()) for service, words in lines if words]

    assert given
    for service, words in given:
        check_command([*compose["services"][service].get("entrypoint", ["joycap"])[1:], *words])


def test_the_gateway_asks_for_keys(compose: dict[str, Any]) -> None:
    flags = compose["services"]["gateway"]["command"]

    assert "--keys-file=/run/secrets/gateway-keys" in flags


def test_every_port_is_bound_to_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for one in compose["services"].values() for port in one.get("ports", ())]

    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_container_is_locked_up(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert service.get("network_mode") is None


def test_every_image_is_of_a_version_and_every_file_that_is_mounted_is_there(
    compose: dict[str, Any], deploy: Path
) -> None:
    for service in compose["services"].values():
        assert service["image"] == "joycap" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith(".."):
                assert (deploy / "docker" / source).resolve().exists()
            elif not source.startswith("$"):
                assert source in compose["volumes"]


def test_every_service_has_a_healthcheck_that_asks_its_own_port(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name == "caption":
            continue  # the image's own check serves it
        inside = service["ports"][0].rpartition(":")[2]
        asked = service["healthcheck"]["test"][-1]
        assert f"http://127.0.0.1:{inside}/" in asked
        if "import" in asked:
            compile(asked, "healthcheck", "exec")


def test_a_containers_grace_outlasts_what_its_process_waits_for(compose: dict[str, Any]) -> None:
    waits = {"engine": 60, "gateway": 30}
    for name, wait in waits.items():
        assert int(compose["services"][name]["stop_grace_period"].rstrip("s")) > wait


def test_grafanas_password_is_none_that_is_known(compose: dict[str, Any]) -> None:
    environment = compose["services"]["grafana"]["environment"]

    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"].endswith("/grafana-password")
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment
    assert environment.get("GF_AUTH_ANONYMOUS_ENABLED", "false") == "false"


def test_secrets_are_made_once_and_are_what_the_services_read(
    compose: dict[str, Any], deploy: Path, tmp_path: Path
) -> None:
    from joycap_vllm.gateway.keys import read_keys

    script, folder = deploy / "docker" / "secrets.sh", tmp_path / "secrets"
    for _ in range(2):
        subprocess.run(["bash", script, folder], check=True, capture_output=True)
        texts = {file.name: file.read_text() for file in folder.iterdir()}

    keys = {key.name: key.secret.decode() for key in read_keys(folder / "gateway-keys.txt")}
    assert set(texts) == {Path(one["file"]).name for one in compose["secrets"].values()}
    assert keys["prometheus"] == texts["gateway-metrics-key.txt"] != keys["tools"]
    assert len({*keys.values(), texts["grafana-password.txt"]}) == 3
    assert all(len(text) == 48 for text in keys.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    before = texts
    subprocess.run(["bash", script, folder], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
