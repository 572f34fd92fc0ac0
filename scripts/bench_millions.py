"""Millions of images: when does the first request go out, and how much memory does the client take?

Against a fault server in a process of its own, which answers at once: a JSONL manifest (whose rows
share a few drawn pictures), a folder of files (links to them), and the manifest again with most of
its tasks in the journal already. Each job runs for some seconds, then gets Ctrl-C. And the manifest
from its first row to its last without asking (--dry-run), with every key remembered.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image, ImageDraw

from fault_server import Asked, FaultServer, Reaction, say

JOYCAP = (sys.executable, "-c", "from joycap_vllm.cli import main; main()")
_PICTURES = 50
_FEW = 200  # requests that a measurement waits for at least


@dataclass(frozen=True)
class Measured:
    """One run: seconds to the first request, peak memory in MiB of the client's process and of all
    its processes together, and requests in how many seconds after the first."""

    first: float
    peak: float
    peak_of_all: float
    requests: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"first request after {self.first:.1f} s; peak memory {self.peak:.0f} MiB, all "
            f"processes together {self.peak_of_all:.0f} MiB; {self.requests:,} requests in "
            f"{self.seconds:.0f} s"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what was asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "which", nargs="*", help="manifest, walk, folder, resume; all without a name"
    )
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the manifest")
    parser.add_argument("--files", type=int, default=300_000, help="files of the folder")
    parser.add_argument("--left", type=int, default=100_000, help="tasks left in the resume")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each job runs")
    parser.add_argument("--in", dest="place", type=Path, help="where to work [a temporary folder]")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.place) as name, Server() as server:
        place = Path(name)
        pictures = draw(place / "pictures")
        for which in given.which or ("manifest", "walk", "folder", "resume"):
            if which == "folder":
                measured = folder_of(place / "folder", pictures, given.files, server, given.seconds)
                print(f"folder of {given.files:,} files: {measured}", flush=True)
                continue
            rows = manifest_of(place / f"rows-{given.rows}.jsonl", pictures, given.rows)
            if which == "walk":
                print(f"walk of {given.rows:,} rows: {walk_of(rows, place / which)}", flush=True)
                continue
            done = given.rows - given.left if which == "resume" else 0
            measured = rows_of(rows, place / which, done, server, given.seconds)
            print(f"{which}: {given.rows:,} rows, {done:,} done: {measured}", flush=True)


def draw(folder: Path) -> list[Path]:
    """A few pictures of half a megapixel."""
    folder.mkdir()
    made = []
    for number in range(_PICTURES):
        picture = Image.effect_noise((800, 600), 20).convert("RGB")
        ImageDraw.Draw(picture).rectangle((100, 100, 400, 300), fill=(number * 5, 80, 200))
        made.append(folder / f"{number:02}.jpg")
        picture.save(made[-1], quality=90)
    return made


def manifest_of(path: Path, pictures: Sequence[Path], rows: int) -> Path:
    """A manifest with a key, a path and a column of tags in each row."""
    if path.exists():
        return path
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            picture = os.path.relpath(pictures[number % len(pictures)], path.parent)
            row = {"key": key_of(number), "path": picture, "tags": "1girl, solo, long hair"}
            file.write(json.dumps(row) + "\n")
    return path


def key_of(number: int) -> str:
    """A key such as collections have."""
    return f"part-{number // 10_000:05}/image-{number:09}.jpg"


def folder_of(
    folder: Path, pictures: Sequence[Path], files: int, server: Server, seconds: float
) -> Measured:
    """Half of the files right in the folder, half in folders of a thousand."""
    for number in range(files):
        inside = folder if number % 2 else folder / f"{number // 2000:04}"
        inside.mkdir(parents=True, exist_ok=True)
        os.link(pictures[number % len(pictures)], inside / f"image-{number:09}.jpg")
    try:
        return measure([str(folder)], server, seconds)
    finally:
        shutil.rmtree(folder)


def rows_of(rows: Path, out: Path, done: int, server: Server, seconds: float) -> Measured:
    """The manifest's job, with so many of its tasks in the journal, of which no row is the last."""
    asked = [str(rows), "--format", "jsonl", "--out", str(out / "captions.jsonl")]
    out.mkdir()
    if done:
        subprocess.run(command([*asked, "--limit", "1"], server), check=True, capture_output=True)
        (journal,) = (out / ".joycap").glob("journal-*.jsonl")
        record = journal.read_text(encoding="utf-8")
        first = json.dumps(key_of(0))
        assert first in record, "the record names its image"  # noqa: S101
        with (out / ".joycap" / "journal-before-1.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(record.replace(first, f'"{key_of(n)}"') for n in range(1, done))
    try:
        return measure(asked, server, seconds)
    finally:
        shutil.rmtree(out)


def walk_of(rows: Path, out: Path) -> str:
    """The whole manifest, looked at and not asked."""
    asked = ["caption", str(rows), "--format", "jsonl", "--out", str(out), "--dry-run"]
    began = time.monotonic()
    with subprocess.Popen(
        [*JOYCAP, *asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        peak = 0.0
        while job.poll() is None:
            peak = max(peak, memory(job.pid, "VmHWM"))
            time.sleep(0.05)
    if job.returncode:
        raise SystemExit(f"the walk ended with {job.returncode}")
    return f"{time.monotonic() - began:.0f} s, peak memory {peak:.0f} MiB"


def command(asked: Sequence[str], server: Server) -> list[str]:
    """The command line."""
    url = ["--base-url", server.url, "--no-check", "--concurrency", "64"]
    return [*JOYCAP, "caption", *asked, *url]


def measure(asked: Sequence[str], server: Server, seconds: float) -> Measured:
    """Runs a job and looks at it from outside."""
    before, began = server.requests(), time.monotonic()
    with subprocess.Popen(command(asked, server), stderr=subprocess.PIPE, text=True) as job:
        first = peak_of_all = 0.0
        peak = 0.0
        while job.poll() is None:
            peak = max(peak, memory(job.pid, "VmHWM"))
            peak_of_all = max(peak_of_all, sum(memory(pid, "VmRSS") for pid in family(job.pid)))
            answered = server.requests() - before
            now = time.monotonic() - began
            if answered and not first:
                first = now
            if first and now - first > seconds and answered >= _FEW:
                break
            time.sleep(0.05)
        ended = time.monotonic() - began
        answered = server.requests() - before
        job.send_signal(signal.SIGINT)
        job.send_signal(signal.SIGINT)
        told = job.communicate()[1]
    if not first:
        raise SystemExit(f"no request came:\n{told}")
    return Measured(first, peak, peak_of_all, answered, ended - first)


def memory(pid: int, what: str) -> float:
    """MiB of a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), 0.0)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text(encoding="utf-8").split()]
            except OSError:
                continue
    return found


class Server:
    """The fault server in a process of its own, which counts what it is asked."""

    def __enter__(self) -> Server:
        ours, its = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._count = context.Value("q", 0)
        self._process = context.Process(target=_serve, args=(its, self._count), daemon=True)
        self._process.start()
        self.url: str = ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def requests(self) -> int:
        """Captions asked for so far."""
        return int(self._count.value)


def _serve(pipe: Connection, count: multiprocessing.sharedctypes.Synchronized[int]) -> None:
    def answer(_: Asked) -> Reaction:
        with count.get_lock():
            count.value += 1
        return say("A blue rectangle stands on a field of grey noise.")

    server = FaultServer(answer, keep=False)
    pipe.send(server.url)
    signal.pause()


if __name__ == "__main__":
    main()
