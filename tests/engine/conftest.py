"""One real vLLM server with the nano model for all tests of this folder."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Says so where the engine's tests are left out."""
    there = importlib.util.find_spec("vllm") is not None
    return f"vLLM: {'here' if there else 'not here, the tests of tests/engine are left out'}"


@dataclass(frozen=True)
class Engine:
    """A server that `joycap serve nano` runs."""

    url: str
    process: subprocess.Popen[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    log = tmp_path_factory.mktemp("engine") / "serve.log"
    call = "from joycap_vllm.cli import main; main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JOYCAP_")}
    environment["XDG_STATE_HOME"] = str(log.parent)
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", call, "serve", "nano", "--port", str(free_port()), "--json"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, Path(log).read_text()
        yield Engine(first_url(json.loads(line)), process)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()

    assert process.returncode == 0, Path(log).read_text()


def first_url(told: object) -> str:
    """The base URL in what `joycap serve --json` prints."""
    if isinstance(told, dict):
        told = told.get("base_urls") or told.get("urls")
    assert isinstance(told, list)
    return str(told[0])
