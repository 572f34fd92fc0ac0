"""Pictures, the command and its records, for the tests of whole jobs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from fault_server import Asked, FaultServer
from forking import run_joycap

LOOP = "a red car, " * 40
REFUSAL = "I'm sorry, but I can't help with that."


def color_of(number: int) -> tuple[int, int, int]:
    return (number % 200, (number * 7) % 200, 50 + number // 200)


def make_pictures(folder: Path, count: int) -> list[Path]:
    """PNGs of one colour each, over a few folders with awkward names."""
    paths = []
    for number in range(count):
        sub = folder / ("", "with space", "ü/deep", "-dash")[number % 4]
        sub.mkdir(parents=True, exist_ok=True)
        path = sub / f"p {number}.png"
        Image.new("RGB", (40, 30), color_of(number)).save(path)
        paths.append(path)
    return paths


def command(*arguments: str | Path) -> list[str]:
    call = "from joycap_vllm.cli import main; main()"
    return [sys.executable, "-c", call, *map(str, arguments)]


def joycap(
    *arguments: str | Path, code: int | None = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = run_joycap(arguments, cwd=cwd)
    assert code is None or done.returncode == code, done.stderr
    return done


def caption(folder: Path, server: FaultServer, *flags: str | Path, code: int = 0) -> dict[str, Any]:
    done = joycap("caption", folder, "--base-url", server.url, "--json", *flags, code=code)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    counts = sum(summary[name] for name in ("ok", "skipped", "glitched", "failed"))
    assert counts == summary["tasks"]
    return summary


def records(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / ".joycap").glob("journal-*.jsonl"))
    return [orjson.loads(row) for file in files for row in file.read_bytes().splitlines()]


def jobs_requests(server: FaultServer) -> list[Asked]:
    """Requests of the job itself, without the test picture of the start."""
    return [asked for asked in server.asked if asked.color != (215, 35, 40)]


def sidecar(path: Path) -> Path:
    return path.with_suffix(".txt")


def start_and_wait_for(folder: Path, server: FaultServer, count: int) -> subprocess.Popen[str]:
    """A job of its own process, once `count` requests have reached the server."""
    process = subprocess.Popen(
        command(
            "caption", folder, "--base-url", server.url, "--json", "--concurrency", "4",
            "--no-check",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while len(server.asked) < count:
        assert time.monotonic() < deadline, "the job did not get going"
        time.sleep(0.01)
    return process
