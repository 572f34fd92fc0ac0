"""`joycap caption --ray` for tests."""

from __future__ import annotations

import json
import os
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from PIL import Image

from forking import run_joycap, start


def pictures(folder: Path, count: int) -> list[Path]:
    """PNGs, all different."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 30), (number % 256, number // 256, 200)).save(path)
    return paths


def arguments(folder: Path, url: str, ray: str, *flags: str) -> list[str | Path]:
    """What is typed."""
    return [
        "caption", folder, "--base-url", url, "--ray", ray, "--ray-workers", "2", "--no-check",
        "--json", *flags,
    ]  # fmt: skip


def caption(
    folder: Path, url: str, ray: str, *flags: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    """A job from begin to end: its summary, and what it told."""
    done = run_joycap(arguments(folder, url, ray, *flags), timeout=120)
    assert done.returncode == code, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    counts = sum(summary.get(name, 0) for name in ("ok", "skipped", "glitched", "failed"))
    assert counts == summary.get("tasks", 0)
    return summary, done.stderr


def begun(folder: Path, url: str, ray: str, *flags: str) -> ForkServerProcess:
    """A job that runs."""
    outputs = [Path(tempfile.mkdtemp()) / name for name in ("stdout", "stderr")]
    return start(arguments(folder, url, ray, *flags), os.environ, outputs)
