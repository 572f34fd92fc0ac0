"""Real servers for benches: the nano model on real vLLM, and what its counters say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

JOYCAP = (sys.executable, "-c", "from joycap_vllm.cli import main; main()")


@contextlib.contextmanager
def nano_server(*flags: str) -> Iterator[str]:
    """`joycap serve nano` for the length of a block; its base URL. The flags go to vLLM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *JOYCAP,
            "serve",
            "nano",
            "--port",
            str(port),
            "--json",
            *(["--", *flags] if flags else []),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101
        told = process.stdout.readline()
        if not told:
            sys.exit("the server did not start")
        yield json.loads(told)[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def metrics(url: str) -> str:
    """The text of a server's `/metrics`."""
    answer = httpx2.get(f"{url.removesuffix('/v1')}/metrics", timeout=30, trust_env=False)
    return answer.text


def counter(text: str, name: str) -> float:
    """The sum of a counter over its labels."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def cpu_seconds(url: str) -> float:
    """Seconds of CPU that a server on this machine has used, all its processes together.

    The engine's processes are children of the one that listens.
    """
    port = f"--port\0{urlsplit(url).port}\0".encode()
    ticks, family = 0, set()
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if port in (folder / "cmdline").read_bytes() or int(fields[1]) in family:
                family.add(int(folder.name))
                ticks += sum(map(int, fields[11:15]))  # with its children that ended
    return ticks / os.sysconf("SC_CLK_TCK")
