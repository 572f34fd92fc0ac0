"""SkyPilot's files, as bash runs what is in them; scripts/check_clouds reads them with SkyPilot."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

_VARIABLES = {
    "PICTURES": "s3://my-pictures/my photos",
    "TYPE": "straightforward",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NUM_NODES": "4",
}


@pytest.mark.parametrize(("ends", "told"), [(0, 0), (1, 0), (2, 2), (3, 3), (130, 130)])
def test_a_machine_that_is_done_ends_no_other_machine(
    deploy: Path, tmp_path: Path, ends: int, told: int
) -> None:
    """SkyPilot stops all where one fails; 1 is a share that is done but for some pictures."""
    joycap = tmp_path / "joycap-env" / "bin" / "joycap"
    joycap.parent.mkdir(parents=True)
    joycap.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@"\nexit {ends}\n')
    joycap.chmod(0o755)
    script = yaml.safe_load((deploy / "skypilot" / "caption.yaml").read_text())["run"]
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, **_VARIABLES, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    words = done.stdout.splitlines()

    assert done.returncode == told
    assert words[:2] == ["caption", _VARIABLES["PICTURES"]]
    assert words[words.index("--shard") + 1] == "2/4"


@pytest.mark.parametrize("name", ["caption", "engines"])
def test_machines_get_a_python_that_joycap_runs_on(deploy: Path, tmp_path: Path, name: str) -> None:
    """Ubuntu's own, on SkyPilot's images, is 3.10; the uv that SkyPilot brings can get others."""
    uv = tmp_path / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/bash\nprintf "%s\\n" "$*"\n')
    uv.chmod(0o755)
    script = yaml.safe_load((deploy / "skypilot" / f"{name}.yaml").read_text())["setup"]
    env = {**os.environ, "HOME": str(tmp_path)}
    told = subprocess.run(
        ["bash", "-euc", script], env=env, capture_output=True, text=True, check=True, timeout=20
    ).stdout.splitlines()
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]

    assert told[0] == f"venv --python 3.12 {tmp_path}/joycap-env"
    assert "3.12" in SpecifierSet(project["requires-python"])
    assert told[1].startswith(
        f"pip install --quiet --python {tmp_path}/joycap-env/bin/python .[vllm"
    )
