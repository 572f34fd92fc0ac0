"""The unit as systemd itself reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_systemd_accepts_the_unit(deploy: Path, tmp_path: Path) -> None:
    name = "joycap-serve.service"
    text = (deploy / "systemd" / name).read_text(encoding="utf-8")
    # systemd looks whether the program is there, and on this machine it is not.
    (tmp_path / name).write_text(text.replace("/opt/joycap/bin/joycap", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
