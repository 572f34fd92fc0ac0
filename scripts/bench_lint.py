"""How fast `joycap lint` judges rows, and that its memory does not grow with them.

    python scripts/bench_lint.py [--rows 1000000] [--workers auto]

Writes rows of captions of about a hundred words, three in a hundred of them bad, and judges first
a tenth of them and then all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PLACES = ("street", "harbour", "kitchen", "meadow", "library", "market", "garden", "bridge")
THINGS = ("lamp", "bicycle", "kettle", "ladder", "curtain", "basket", "mirror", "umbrella")
LOOKS = ("red", "small", "wooden", "bright", "narrow", "dusty", "striped", "golden", "quiet")
WHERE = ("in front of", "behind", "to the left of", "far above", "right beside", "half hidden by")
LIGHTS = ("Soft light falls", "A long shadow lies", "Rain has left puddles", "Thin mist hangs")


@dataclass(frozen=True)
class Measured:
    """One run; memory in MiB at its highest, `cpu` in seconds over all processes."""

    seconds: float
    cpu: float
    main: float
    worker: float
    together: float


def good(draw: random.Random) -> str:
    """About a hundred words of prose."""
    sentences = [
        f"{draw.choice(LIGHTS)} over the {draw.choice(PLACES)}, where a {draw.choice(LOOKS)} "
        f"{draw.choice(THINGS)} stands {draw.choice(WHERE)} a {draw.choice(LOOKS)} "
        f"{draw.choice(THINGS)} near number {draw.randrange(1000)}."
        for _ in range(5)
    ]
    return " ".join(sentences)


def tags(draw: random.Random) -> str:
    """A list of tags."""
    words = [f"{look} {thing}" for look in LOOKS for thing in THINGS]
    return ", ".join(draw.sample(words, 30))


def looping(draw: random.Random) -> str:
    """A caption that does not end."""
    return good(draw) + f" A {draw.choice(LOOKS)} {draw.choice(THINGS)}, and" * 40


def cut(draw: random.Random) -> str:
    """A caption that breaks off."""
    return good(draw)[:300].rsplit(" ", 1)[0] + " and the"


def refused(draw: random.Random) -> str:
    """No caption."""
    return f"I'm sorry, but I can't describe the {draw.choice(PLACES)} in this image."


def empty(_: random.Random) -> str:
    """Nothing."""
    return ""


BAD: tuple[Callable[[random.Random], str], ...] = (looping, cut, refused, empty)


def write_rows(path: Path, rows: int) -> None:
    """Rows of which 3 in 100 are bad, each way alike."""
    draw = random.Random(7)
    with path.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            share = draw.random()
            make = draw.choice(BAD) if share < 0.03 else tags if share < 0.2 else good
            out.write(json.dumps({"text": make(draw)}) + "\n")


def measure(path: Path, rows: int, workers: str) -> Measured:
    """Runs the command, with its rows to a file, and watches its processes."""
    call = [sys.executable, "-c", "from joycap_vllm.cli import main; main()"]
    main = worker = together = 0.0
    cpu: dict[int, float] = {}
    with path.with_suffix(".out").open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(
            [*call, "lint", "--jsonl", str(path), "--workers", workers],
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            family = _family(process.pid)
            own, *others = map(_resident, family)
            cpu |= {pid: max(_cpu(pid), cpu.get(pid, 0.0)) for pid in family}
            main, worker = max(main, own), max(worker, *others, 0.0)
            together = max(together, own + sum(others))
            time.sleep(0.1)
        seconds = time.monotonic() - began
    said = path.with_suffix(".out").read_bytes().count(b"\n")
    if process.returncode != 1 or said != rows:
        raise SystemExit(f"it ended with {process.returncode} after {said} of {rows} rows")
    return Measured(seconds, sum(cpu.values()), main, worker, together)


def _family(pid: int) -> list[int]:
    """A process and all that came of it."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(each for child in text.split() for each in _family(int(child)))]


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except (OSError, IndexError):
        return 0.0


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def main() -> None:
    """Judges a tenth of the rows, then all, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", default="auto")
    flags = parser.parse_args()
    print("| rows | seconds | rows/s | CPU µs/row | main MiB | largest worker MiB | together MiB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in (flags.rows // 10, flags.rows):
            path = Path(folder) / "rows.jsonl"
            write_rows(path, rows)
            found = measure(path, rows, flags.workers)
            values = (
                f"{rows}",
                f"{found.seconds:.1f}",
                f"{rows / found.seconds:.0f}",
                f"{found.cpu / rows * 1e6:.0f}",
                f"{found.main:.0f}",
                f"{found.worker:.0f}",
                f"{found.together:.0f}",
            )
            print(f"| {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()
