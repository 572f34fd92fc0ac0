"""The units as systemd itself reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .tools import found, needs

pytestmark = needs("systemd-analyze")
# How exposed systemd may find each of them, from 0 to 10; what looks after a GPU needs its devices.
EXPOSED = {
    "joycap-serve.service": 4.0,
    "joycap-gateway.service": 2.0,
    "joycap-caption@.service": 2.0,
}


@pytest.fixture
def units(deploy: Path, tmp_path: Path) -> list[Path]:
    """All units; systemd looks whether programs are there, and on this machine they are not."""
    files = []
    for file in sorted((deploy / "systemd").glob("joycap-*")):
        copy = tmp_path / file.name
        copy.write_text(file.read_text().replace("/opt/joycap/bin/joycap", "/bin/true"))
        files.append(copy)
    assert len(files) == 4
    return files


def test_systemd_accepts_the_units(units: list[Path], tmp_path: Path) -> None:
    # A template stands for nothing until it has a folder's name.
    for unit in units:
        instance = unit.name.replace("@.", "@srv-pictures.")
        if instance != unit.name:
            (tmp_path / instance).symlink_to(unit)
    named = [str(unit) for unit in sorted(tmp_path.glob("joycap-*")) if "@." not in unit.name]
    done = subprocess.run(
        [found("systemd-analyze"), "verify", *named],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert len(named) == 4
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXPOSED)
def test_systemd_finds_the_services_little_exposed(units: list[Path], name: str) -> None:
    unit = next(unit for unit in units if unit.name == name)
    done = subprocess.run(
        [found("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    told = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)

    assert told is not None, done.stderr
    assert float(told[1]) <= EXPOSED[name]


def test_a_folder_whose_server_was_away_is_tried_again_in_its_next_hour(deploy: Path) -> None:
    """Else the timer's start would be refused, too, until the limit of starts is forgotten."""
    texts = [
        (deploy / "systemd" / f"joycap-caption@.{kind}").read_text()
        for kind in ("service", "timer")
    ]
    limit = re.search(r"^StartLimitIntervalSec=(\S+)", texts[0], re.MULTILINE)
    pause = re.search(r"^OnUnitInactiveSec=(\S+)", texts[1], re.MULTILINE)

    assert limit is not None
    assert pause is not None
    assert seconds(limit[1]) <= seconds(pause[1])


def seconds(span: str) -> float:
    """A time as systemd reads it."""
    words = [found("systemd-analyze"), "timespan", span]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=True)
    told = re.search(r"s: (\d+)$", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    return int(told[1]) / 1e6


@pytest.mark.parametrize("name", ["joycap-gateway.service", "joycap-caption@.service"])
def test_clients_outlast_the_first_download_of_a_model(deploy: Path, name: str) -> None:
    """They end where no server answers, and systemd must go on to start them meanwhile."""
    told = dict(re.findall(r"^(\w+)=(.*)$", (deploy / "systemd" / name).read_text(), re.MULTILINE))
    interval, pause = seconds(told["StartLimitIntervalSec"]), float(told["RestartSec"])

    assert interval == 0 or pause * float(told["StartLimitBurst"]) >= 3000
