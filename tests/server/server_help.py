"""Helpers of the launcher's tests: plans that start the fake vLLM, and who of a group is alive."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from joycap_vllm.server import Plan, Replica
from joycap_vllm.server.command import EngineCommand
from joycap_vllm.server.shape import JOYCAPTION

FAKE = Path(__file__).with_name("fake_vllm.py")
COMMAND = EngineCommand(("vllm", "serve"), False, "0.32.0", False, None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fake_plan(log_dir: Path, *arguments: str, replicas: int = 1, grace: float = 20) -> Plan:
    """A plan whose servers are the fake one."""
    servers = []
    for _ in range(replicas):
        port = free_port()
        argv = (sys.executable, str(FAKE), "--port", str(port), *arguments)
        url = f"http://127.0.0.1:{port}/v1"
        servers.append(Replica("127.0.0.1", port, url, None, argv, {}))
    return Plan(
        shape=JOYCAPTION,
        served="joycaption",
        command=COMMAND,
        flags=(),
        env=(),
        raw=(),
        replicas=tuple(servers),
        log_dir=log_dir,
        start_timeout=30,
        grace=grace,
        check=False,
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if alive(pid) and _group_of(pid) == leader]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether a condition of other processes came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
