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
from server_help import alive, free_port, wait_until

from joycap_vllm.errors import EngineError
from joycap_vllm.server import Record, Replica
from joycap_vllm.server.engine import check_port
from joycap_vllm.server.launches import born

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


def test_a_port_where_another_launcher_loads_is_taken_already(launched: Launched) -> None:
    launched.wait_ready()
    url = f"http://127.0.0.1:{launched.port}/v1"
    replica = Replica("127.0.0.1", launched.port, url, None, (), {})

    with pytest.raises(EngineError, match=rf"process {launched.process.pid}\) serves there"):
        check_port(replica)


def test_of_two_launchers_that_begin_together_the_later_gives_way(tmp_path: Path) -> None:
    port = free_port()
    replica = Replica("127.0.0.1", port, f"http://127.0.0.1:{port}/v1", None, (), {})
    with Record("a model") as mine:
        mine.begin(replica.base_url)
        (file,) = (tmp_path / "state/joycap-vllm/serve").glob("*.json")
        told = json.loads(file.read_bytes())
        parent = os.getppid()
        theirs = {**told, "pid": parent, "born": born(parent)}
        for started, taken in ((told["started"] + 5, False), (told["started"] - 5, True)):
            other = file.with_name(f"{parent}.json")
            other.write_text(json.dumps({**theirs, "started": started}))
            if taken:
                with pytest.raises(EngineError, match=f"process {parent}"):
                    check_port(replica)
            else:
                check_port(replica)


@pytest.mark.parametrize("text", ["null", "[]", "{}", '{"pid": 1}', "nonsense", '{"servers": 3}'])
def test_files_that_are_no_launchers_are_passed_over(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "state/joycap-vllm/serve"
    folder.mkdir(parents=True)
    (folder / "1.json").write_text(text)

    assert status() == []
