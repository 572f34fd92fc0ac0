"""`joycap serve --status` and `--stop`: which servers run, and their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_help import alive, wait_until

from forking import run_joycap

LAUNCHER = Path(__file__).with_name("launch_fake.py")


class Launched:
    """A launcher of the fake vLLM, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environ = {**os.environ, "XDG_STATE_HOME": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, str(LAUNCHER), str(folder)],
            stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        while not self.process.stdout.readline().startswith("ready"):
            assert self.process.poll() is None


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Launched(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def status(*flags: str) -> list[dict[str, Any]]:
    done = run_joycap(["serve", "--status", "--json", *flags])
    assert done.returncode in (0, 3), done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def test_a_server_that_runs_is_shown_with_its_log(launched: Launched) -> None:
    launched.wait_ready()
    (launch,) = status()
    (server,) = launch["servers"]

    assert launch["pid"] == launched.process.pid
    assert (server["url"], server["state"]) == (f"http://127.0.0.1:{launched.port}/v1", "ready")
    assert Path(server["log"]).is_file()
    assert status("--port", "1") == []


def test_stop_ends_the_launcher_and_its_servers(launched: Launched) -> None:
    launched.wait_ready()
    (launch,) = status()
    done = run_joycap(["serve", "--stop"])

    assert done.returncode == 0, done.stderr
    assert f"process {launch['pid']}: stopped" in done.stderr
    assert launched.process.wait(10) == 0
    assert status() == []
    assert run_joycap(["serve", "--stop"]).returncode == 3


def test_a_launcher_that_was_killed_is_not_shown(launched: Launched, tmp_path: Path) -> None:
    launched.wait_ready()
    launched.process.kill()
    launched.process.wait()

    assert wait_until(lambda: not alive(launched.process.pid))
    done = run_joycap(["serve", "--status"])
    assert done.returncode == 3
    assert "no server of `joycap serve` runs here" in done.stderr
    assert not list((tmp_path / "joycap-vllm" / "serve").glob("*.json"))
