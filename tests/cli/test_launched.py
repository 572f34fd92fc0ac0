"""Commands find the servers that `joycap serve` runs on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from job.helping import command, joycap, make_pictures

from joycap_vllm.server import Change, Record, State

from fault_server import FaultServer
from forking import run_joycap

OTHER = """
import time
from joycap_vllm.server import Record
with Record("another model") as record:
    record.begin("http://127.0.0.1:9/v1")
    print("there", flush=True)
    time.sleep(60)
"""


def in_state(server: FaultServer, state: State) -> Change:
    return Change(server.url, state, "", "", "", 0, time.time())


def test_a_job_without_an_address_asks_the_server_that_runs_here(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    with Record("a model") as record:
        record.note(in_state(server, State.READY))
        joycap("caption", tmp_path, "--no-check")

    assert len(list(tmp_path.rglob("*.txt"))) == 2


def test_a_job_waits_for_a_server_that_is_starting(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 2)
    with Record("a model") as record:
        record.begin(server.url)
        job = subprocess.Popen(
            command("caption", tmp_path, "--base-url", server.url),
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert job.stderr is not None
        said = next(line for line in job.stderr if "waiting for" in line)
        asked = server.requests
        record.note(in_state(server, State.READY))
        rest = job.communicate(timeout=40)[1]

    assert f"waiting for `joycap serve`, which starts {server.url}" in said
    assert (asked, job.returncode) == (0, 0), rest
    assert len(list(tmp_path.rglob("*.txt"))) == 2


def test_without_any_server_the_way_out_is_told(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    done = run_joycap(["caption", str(tmp_path), "--base-url", "http://127.0.0.1:9/v1"])

    assert done.returncode == 3
    assert "`joycap serve` starts a server here, and --base-url names another" in done.stderr


def test_of_several_models_that_run_here_one_must_be_chosen(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 1)
    elsewhere = subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True)
    assert elsewhere.stdout is not None
    elsewhere.stdout.readline()
    try:
        with Record("a model") as record:
            record.note(in_state(server, State.READY))
            unclear = run_joycap(["caption", str(tmp_path)])
            joycap("caption", tmp_path, "--base-url", server.url, "--no-check")
    finally:
        elsewhere.kill()
        elsewhere.communicate()

    assert unclear.returncode == 2
    assert "2 models run here, --base-url chooses" in unclear.stderr
