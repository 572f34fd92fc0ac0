"""The worker for RunPod, as bash starts it; scripts/check_runpod gives its handler jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

URLS = ["http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"]


@pytest.mark.parametrize(
    ("engine", "code", "told"),
    [(f"echo '{json.dumps(URLS)}'; sleep 1", 0, " ".join(URLS)), ("exit 5", 1, "")],
    ids=["a good start", "no engine"],
)
def test_jobs_are_taken_once_the_engines_are_ready(
    deploy: Path, tmp_path: Path, engine: str, code: int, told: str
) -> None:
    shutil.copy(deploy / "runpod" / "start.sh", tmp_path)
    (tmp_path / "handler.py").write_text(
        "import os\nprint(os.environ['JOYCAP_BASE_URL'], end='')\n"
    )
    joycap = tmp_path / "joycap"
    joycap.write_text(f'#!/bin/bash\n[ "$*" = "serve --json" ] || exit 2\n{engine}\n')
    joycap.chmod(0o755)
    done = subprocess.run(
        ["bash", tmp_path / "start.sh"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert (done.returncode, done.stdout) == (code, told)


def test_the_worker_runs_the_engine_that_the_other_files_name(deploy: Path) -> None:
    image = (deploy / "runpod" / "Dockerfile").read_text().partition("FROM ")[2].split()[0]

    assert f"image: {image}\n" in (deploy / "docker" / "compose.yaml").read_text()
