"""SkyPilot's files, as bash runs what is in them; scripts/check_clouds reads them with SkyPilot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

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
