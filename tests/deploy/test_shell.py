"""Scripts as bash and shellcheck read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import DEPLOY
from .tools import found, needs

SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])
OURS = [
    DEPLOY.parent / "scripts" / name
    for name in (
        "check_image",
        "check_clouds",
        "check_runpod",
        "check_node",
        "check_trainers",
        "test",
        "venv",
    )
]


@pytest.mark.parametrize("script", [*SCRIPTS, *OURS], ids=lambda path: path.name)
def test_bash_can_read_it(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@needs("shellcheck")
@pytest.mark.parametrize("script", [*SCRIPTS, *OURS], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    # It takes functions that only a trap calls for unused.
    words = [found("shellcheck"), "--exclude=SC2329", str(script)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
