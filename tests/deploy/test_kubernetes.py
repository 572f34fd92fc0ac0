"""The Kubernetes files, as kustomize puts them together and as the cluster's schemas read them."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from joycap_vllm.server import command as commands
from joycap_vllm.server.docker import docker_argv
from joycap_vllm.server.hardware import Hardware
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import DEFAULT_MODEL, shape_of
from joycap_vllm.server.values import ServeOptions

from .promql import Query, check, panels
from .tools import found, needs

VERSIONS = ("1.31", "1.37")
Check = Callable[[list[str]], None]
Object = dict[str, Any]


def documents(*files: Path) -> list[Object]:
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


@pytest.fixture(scope="module")
def home(deploy: Path) -> Path:
    return deploy / "kubernetes"


@pytest.fixture(scope="module")
def base(home: Path) -> dict[tuple[str, str], Object]:
    """The base's objects by kind and name."""
    files = [home / "base" / name for name in kustomization(home / "base")["resources"]]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents(*files)}


@pytest.fixture(scope="module")
def example(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a user has it who has followed its README: with secrets."""
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(home, copy)
    secrets = copy / "overlays" / "example" / "secrets"
    secrets.mkdir()
    for generator in kustomization(copy / "overlays" / "example")["secretGenerator"]:
        for line in generator["files"]:
            (secrets.parent / line.partition("=")[2]).write_text("secret")
    return copy / "overlays" / "example"


def kustomization(folder: Path) -> Object:
    whole: Object = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return whole


def pods(base: dict[tuple[str, str], Object]) -> Iterator[tuple[str, Object]]:
    """The pods of all workloads by their names."""
    for (kind, name), one in base.items():
        if kind in ("Deployment", "Job"):
            yield name, one["spec"]["template"]["spec"]


def built(folder: Path) -> list[Object]:
    """What `kubectl apply --kustomize` would send."""
    done = subprocess.run(
        [found("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@needs("kubernetes-validate")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_clusters_schemas_accept_every_object(home: Path, version: str) -> None:
    words = [found("kubernetes-validate"), "--strict", "--quiet", "-k", version]
    files = [home / "base" / name for name in kustomization(home / "base")["resources"]]
    done = subprocess.run([*words, *files], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


@needs("kubernetes-validate")
def test_the_schemas_see_what_is_wrong(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "gateway.yaml"
    broken.write_text(
        (home / "base" / "gateway.yaml").read_text().replace("periodSeconds", "every")
    )
    done = subprocess.run(
        [found("kubernetes-validate"), "--strict", broken], capture_output=True, check=False
    )

    assert done.returncode == 1


@needs("kubectl", "kubernetes-validate")
@pytest.mark.parametrize("layer", ["base", "example"])
def test_kustomize_builds_what_the_schemas_accept(
    home: Path, example: Path, layer: str, tmp_path: Path
) -> None:
    objects = built(home / "base" if layer == "base" else example)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    words = [found("kubernetes-validate"), "--strict", "--quiet", str(tmp_path / "all.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
    assert all(
        one["metadata"].get("namespace") == "joycap" or one["kind"] == "Namespace"
        for one in objects
    )


@needs("kubectl")
def test_the_example_changes_what_it_says(example: Path) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in built(example)}
    job = objects["Job", "caption"]["spec"]
    container = job["template"]["spec"]["containers"][0]

    assert container["image"] == "registry.example.com/joycap:0.1.0"
    assert {"name": "SHARDS", "value": str(job["completions"])} in container["env"]
    assert "readOnlyRootFilesystem" in container["securityContext"]
    assert objects["HorizontalPodAutoscaler", "engine"]["spec"]["maxReplicas"] == 8
    assert {name for kind, name in objects if kind == "Secret"} == {
        "engine-key", "gateway-keys", "gateway-metrics-key",
    }  # fmt: skip


def test_every_file_that_a_layer_names_is_there_and_patches_meet_an_object(
    home: Path, base: dict[tuple[str, str], Object]
) -> None:
    for layer in (home / "base", home / "overlays" / "example"):
        told = kustomization(layer)
        for name in told["resources"]:
            assert (layer / name).exists()
        for patch in told.get("patches", ()):
            targets = documents(layer / patch["path"]) if "path" in patch else [patch["target"]]
            for one in targets:
                name = one["name"] if "name" in one else one["metadata"]["name"]
                assert (one["kind"], name) in base


def test_secrets_are_made_of_files_that_git_leaves_out(home: Path) -> None:
    layer = home / "overlays" / "example"
    files = [line.partition("=")[2] for one in kustomization(layer)["secretGenerator"]
             for line in one["files"]]  # fmt: skip

    assert all(file.startswith("secrets/") for file in files)
    assert "secrets/" in (layer / ".gitignore").read_text().split()
    assert not any(one.get("kind") == "Secret" for one in documents(*home.rglob("*.yaml")))


def test_the_engine_is_started_as_joycap_serve_would(
    base: dict[tuple[str, str], Object],
) -> None:
    machine = Hardware((), cores=8, ram=64 << 30)
    options = ServeOptions(engine="docker", api_key="a-key", host="0.0.0.0")
    plan = make_plan(machine, commands.docker(), shape_of(DEFAULT_MODEL), options)
    argv = docker_argv(plan, plan.replicas[0], {})
    container = base["Deployment", "engine"]["spec"]["template"]["spec"]["containers"][0]
    model, *flags = container["args"]
    split = [word for flag in flags for word in flag.split("=", 1)]
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}

    assert (model, *split) == argv[argv.index(container["image"]) + 1 :]
    assert {flag.name: flag.value for flag in plan.env}.items() <= plain.items()
    assert plain["PYTHONPATH"] == "/joycap"


def test_what_the_engine_needs_of_ours_is_where_the_pod_copies_it_from(
    base: dict[tuple[str, str], Object], tmp_path: Path
) -> None:
    import joycap_vllm

    script = base["Deployment", "engine"]["spec"]["template"]["spec"]["initContainers"][0]
    venv = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    venv.mkdir(parents=True)
    (venv / "joycap_vllm").symlink_to(Path(joycap_vllm.__file__).parent)
    (tmp_path / "joycap").mkdir()
    shell, flag, line = script["command"]
    here = re.sub(r"(?<=[ ])/(?=venv|joycap)", f"{tmp_path}/", line)
    subprocess.run([shell, flag, here], check=True, timeout=20)

    names = {file.name for file in (tmp_path / "joycap").iterdir()}
    assert names == {"chat_template.jinja", "joycap_guard.py"}


def test_every_pod_is_locked_up(base: dict[tuple[str, str], Object]) -> None:
    seen = 0
    for name, pod in pods(base):
        assert pod["automountServiceAccountToken"] is False, name
        # Services' variables, such as JOYCAP_GATEWAY_PORT=tcp://..., are flags to joycap.
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in [*pod["containers"], *pod.get("initContainers", ())]:
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in one["resources"]["limits"]
            assert one["image"] == "joycap" or re.search(r":v\d+\.\d+\.\d+$", one["image"])
            seen += 1
    assert seen == 6


def test_volumes_that_are_mounted_are_volumes_of_the_pod(
    base: dict[tuple[str, str], Object],
) -> None:
    for name, pod in pods(base):
        there = {volume["name"] for volume in pod["volumes"]}
        for one in [*pod["containers"], *pod.get("initContainers", ())]:
            assert {mount["name"] for mount in one.get("volumeMounts", ())} <= there, name


def test_labels_that_select_are_labels_of_pods(base: dict[tuple[str, str], Object]) -> None:
    names = {name for name, _ in pods(base)}
    label = "app.kubernetes.io/name"
    for (kind, name), one in base.items():
        if kind == "Service":
            assert one["spec"]["selector"] == {label: name}
            assert name in names
        elif kind == "PodDisruptionBudget":
            assert one["spec"]["selector"]["matchLabels"] == {label: name}
            assert name in names


def test_only_those_reach_an_engine_who_caption(base: dict[tuple[str, str], Object]) -> None:
    engine = base["NetworkPolicy", "engine"]["spec"]
    (rule,) = engine["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchExpressions"][0]["values"]

    assert base["NetworkPolicy", "nothing"]["spec"]["podSelector"] == {}
    assert set(base["NetworkPolicy", "nothing"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert allowed == ["gateway", "caption"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]


def test_the_gateways_flags_exist_and_it_follows_the_engines_names(
    base: dict[tuple[str, str], Object], check_command: Check
) -> None:
    container = base["Deployment", "gateway"]["spec"]["template"]["spec"]["containers"][0]
    service = base["Service", "engine"]["spec"]

    check_command(container["args"])
    assert f"--endpoints=dns+http://engine:{service['ports'][0]['port']}" in container["args"]
    assert service["clusterIP"] == "None"
    assert "--keys-file=/keys/keys" in container["args"]


@pytest.mark.parametrize("index", [0, 3])
def test_a_pod_of_the_job_captions_its_shard(
    base: dict[tuple[str, str], Object], check_command: Check, tmp_path: Path, index: int
) -> None:
    """The pod's own command, with a `joycap` that shows what it was given."""
    job = base["Job", "caption"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    shown = tmp_path / "joycap"
    shown.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    shown.chmod(0o755)
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={**os.environ, **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}",
             "JOB_COMPLETION_INDEX": str(index)},
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    words = done.stdout.split()

    check_command(words)
    assert words[-2:] == ["--shard", f"{index + 1}/{job['completions']}"]
    assert job["completionMode"] == "Indexed"


def test_the_job_waits_until_its_pictures_are_there(base: dict[tuple[str, str], Object]) -> None:
    """A new volume is empty, which is wrong usage to joycap, and would fail the job for good."""
    assert base["Job", "caption"]["spec"]["suspend"] is True


@pytest.mark.parametrize("name", ["gateway", "caption"])
def test_clients_begin_once_the_name_of_the_engines_has_an_address(
    base: dict[tuple[str, str], Object], name: str
) -> None:
    """The first engine takes up to an hour, more than ten tries that fail."""
    (waits,) = dict(pods(base))[name]["initContainers"]
    shell, flag, script = waits["command"]
    known, unknown = (
        script.replace('"engine"', f'"{host}"') for host in ("localhost", "no.invalid")
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    begin = functools.partial(subprocess.Popen, env={**os.environ, "PATH": path})

    assert script not in (known, unknown)
    with begin([shell, flag, known]) as found_one, begin([shell, flag, unknown]) as still:
        assert found_one.wait(20) == 0
        assert still.poll() is None
        still.terminate()
        assert still.wait(20) != 0


def test_a_pod_that_is_told_to_stop_has_time_to(base: dict[tuple[str, str], Object]) -> None:
    times = {name: pod["terminationGracePeriodSeconds"] for name, pod in pods(base)}

    assert times["engine"] > 60 + 5
    assert times["gateway"] > 30 + 5
    assert times["caption"] > 300


def test_the_autoscaler_asks_for_what_the_adapter_serves(
    base: dict[tuple[str, str], Object], home: Path, deploy: Path
) -> None:
    (rule,) = documents(home / "prometheus-adapter.yaml")[0]["rules"]["custom"]
    metric = base["HorizontalPodAutoscaler", "engine"]["spec"]["metrics"][0]["pods"]["metric"]
    series = rule["name"]["matches"].strip("^$")

    assert rule["name"]["as"] == metric["name"]
    assert f'__name__="{series}"' in rule["seriesQuery"]
    assert series in {name for query in panels(deploy) for name in query.metrics}
    asked = Query(
        "adapter",
        rule["metricsQuery"]
        .replace("<<.Series>>", series)
        .replace("<<.LabelMatchers>>", 'namespace="joycap",pod=~"engine-1|engine-2"')
        .replace("<<.GroupBy>>", "pod"),
        frozenset(),
    )
    check([asked], {series: {"engine", "model_name", "namespace", "pod"}}, "vllm:")


def test_pods_are_scraped_under_the_names_that_alerts_know(
    base: dict[tuple[str, str], Object], home: Path
) -> None:
    monitors = documents(home / "pod-monitor.yaml")
    ports = {name: {port["name"] for one in pod["containers"] for port in one["ports"]}
             for name, pod in pods(base)}  # fmt: skip

    for monitor in monitors:
        pod = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        (end,) = monitor["spec"]["podMetricsEndpoints"]
        assert end["port"] in ports[pod]
        assert end["relabelings"][0]["replacement"] == monitor["metadata"]["name"]
    jobs = {monitor["metadata"]["name"] for monitor in monitors}
    assert jobs == {"vllm", "joycap-gateway", "joycap-caption"}
