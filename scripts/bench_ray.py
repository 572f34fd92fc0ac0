"""What Ray costs: `joycap caption --ray` beside `joycap caption`, and a worker killed on the way.

`scripts/bench ray [--tasks N] [--paired N] [--repeat N] [--workers N]`: the same pictures (JPEG of
400 x 400), cores and stub server (256 slots, answers after 1 s) for the plain client and for so
many workers on a Ray cluster of this machine, in turn; medians and their ratio count. Since more
processes get more of a machine that others use too, the plain client also runs as so many processes
at once (`--shard 1/4`, ...). A rate is
that of the summary, so that neither's start counts; what the start takes is told too. Then all
tasks once on Ray, where a worker is killed by SIGKILL after a third of them: the journal must have
each key once, each image a sidecar, and the counts must add up. Last, the same by `caption_dataset`
over as many actors, one killed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson
from stub_server import Stub, StubOptions, stub

from bench_client import draw, fill

DISTINCT = 20
CALL = "from joycap_vllm.cli import main; main()"


@dataclass(frozen=True)
class Run:
    """What a run told: its summary, and the seconds of the whole process."""

    summary: dict[str, int]
    wall: float
    told: str = ""

    @property
    def rate(self) -> float:
        """Captions a second, from the servers' check to the end."""
        return float(self.summary["captions_per_second"])


def caption(pictures: Path, out: Path, server: Stub, *flags: str, kill_after: int = 0) -> Run:
    """A whole job; a worker is killed once the server has had so many requests."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, "-c", CALL, "caption", str(pictures), "--out", str(out), "--base-url",
        server.url, "--json", *flags,
    ]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if kill_after:
        already = server.stats()["requests"]
        killing = (process.pid, "ray::Worker", server, already + kill_after)
        threading.Thread(target=kill_one, args=killing, daemon=True).start()
    output, told = process.communicate()
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {told[-2000:]}")
    return Run(json.loads(output.splitlines()[-1]), wall, told)


def by_shards(pictures: Path, out: Path, server: Stub, count: int, flags: list[str]) -> float:
    """Captions a second of so many plain clients at once, each with its shard."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, "-c", CALL, "caption", str(pictures), "--out", str(out), "--base-url",
        server.url, "--json", *flags,
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            [*command, "--shard", f"{part}/{count}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for part in range(1, count + 1)
    ]
    told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return float(sum(one["ok"] for one in told) / max(one["seconds"] for one in told))


def kill_one(driver: int, title: str, server: Stub, after: int) -> None:
    """Kills one of a driver's workers."""
    while server.stats()["requests"] < after:
        time.sleep(0.05)
    os.kill(workers_of(driver, title)[0], signal.SIGKILL)


def workers_of(driver: int, title: str) -> list[int]:
    """Processes below a driver whose title begins so."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if (folder / "cmdline").read_text().startswith(title):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in sorted(found) if driver in (parents[pid], parents.get(parents[pid], 0))]


def proved(run: Run, pictures: Path, out: Path, tasks: int) -> list[str]:
    """What is not as it must be after a worker was killed."""
    files = (out / ".joycap").glob("journal-*.jsonl")
    rows = [orjson.loads(row) for file in files for row in file.read_bytes().splitlines()]
    keys = Counter(row["key"] for row in rows)
    names = {path.name for path in pictures.iterdir()}
    summary = run.summary
    checks = {
        f"{len(rows)} records of {tasks}": len(rows) == tasks,
        "a key has two records, or none": set(keys.values()) == {1} and set(keys) == names,
        "an outcome is not ok": all(row["outcome"] == "ok" for row in rows),
        "a sidecar is missing": all((out / f"{Path(n).stem}.txt").stat().st_size for n in names),
        "the counts do not add up": summary["tasks"] == tasks
        == sum(summary[name] for name in ("ok", "skipped", "glitched", "failed")),
        "no worker died": "a worker died" in run.told,
    }  # fmt: skip
    return [what for what, fine in checks.items() if not fine]


def dataset(pictures: Path, url: str, actors: int, tasks: int) -> None:
    """A dataset's whole process; prints what came of it."""
    import logging

    import ray

    from joycap_vllm import CaptionerOptions
    from joycap_vllm.scale import caption_dataset

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init("local", num_cpus=max(4, os.cpu_count() or 1), **quiet)
    paths = [{"path": str(path)} for path in sorted(pictures.iterdir())[:tasks]]
    ds = ray.data.from_items(paths).repartition(4 * actors).materialize()
    options = CaptionerOptions(check=False, workers=2)
    captioned = caption_dataset(ds, urls=[url], options=options, actors=actors)
    began = time.perf_counter()
    rows = captioned.take_all()
    seconds = time.perf_counter() - began
    counts = Counter(row["path"] for row in rows)
    once = len(counts) == len(paths) and set(counts.values()) == {1}
    ok = sum(row["outcome"] == "ok" for row in rows)
    print(json.dumps({"rows": len(rows), "ok": ok, "once": once, "seconds": seconds}))


def by_dataset(pictures: Path, server: Stub, actors: int, tasks: int, *, kill: bool) -> str:
    """The figures of a dataset's run."""
    words = ["--dataset", str(pictures), server.url, str(actors), str(tasks)]
    command = [sys.executable, __file__, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if kill:
        after = server.stats()["requests"] + tasks // 3
        work = (process.pid, "ray::MapWorker", server, after)
        threading.Thread(target=kill_one, args=work, daemon=True).start()
    output, _ = process.communicate()
    told = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    rate = told["rows"] / told["seconds"]
    return f"{told['rows']:,} rows, each once: {told['once']}, ok {told['ok']:,}, {rate:.1f}/s"


def main() -> int:
    """Prints the figures."""
    if sys.argv[1:2] == ["--dataset"]:
        dataset(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--tasks", type=int, default=20_000, help="where a worker is killed; 0: none"
    )
    parser.add_argument("--paired", type=int, default=4000, help="tasks of each paired run")
    parser.add_argument("--repeat", type=int, default=3, help="pairs")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--size", type=int, default=400, help="pixels of a side")
    parser.add_argument("--flags", default="--no-check", help="of both commands")
    parser.add_argument("--without-dataset", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="joycap-bench-"))
    out, ray = folder / "out", ["--ray", "local", "--ray-workers", str(given.workers)]
    flags = given.flags.split()
    made = [draw((given.size, given.size), 20, 85) for _ in range(DISTINCT)]
    try:
        with stub(StubOptions(slots=256, latency=1.0)) as server:
            pairs = fill(folder / "pairs", given.paired, made)
            rates: dict[str, list[Run]] = {"plain": [], "ray": []}
            shards = []
            for _ in range(given.repeat):
                for name, more in (("plain", []), ("ray", ray)):
                    run = caption(pairs, out, server, *flags, *more)
                    rates[name].append(run)
                    start = run.wall - run.summary["seconds"]
                    print(f"{name}: {run.rate:.1f}/s, {start:.1f} s of start and end", flush=True)
                shards.append(by_shards(pairs, out, server, given.workers, flags))
                print(f"{given.workers} shards: {shards[-1]:.1f}/s", flush=True)
            plain, with_ray = (statistics.median(r.rate for r in rates[n]) for n in rates)
            ratios = [b.rate / a.rate for a, b in zip(*rates.values(), strict=True)]
            print(f"medians: plain {plain:.1f}/s, ray {with_ray:.1f}/s")
            whole = statistics.median(shards)
            print(f"shards {whole:.1f}/s; ray is {with_ray / whole:.3f} of them")
            print(f"ratio {with_ray / plain:.3f}; of the pairs {[round(r, 3) for r in ratios]}")
            if not given.tasks:
                return 0
            pictures = fill(folder / "all", given.tasks, made)
            run = caption(pictures, out, server, *flags, *ray, kill_after=given.tasks // 3)
            wrong = proved(run, pictures, out, given.tasks)
            print(f"{given.tasks:,} tasks, a worker killed: {run.rate:.1f}/s, {run.summary}")
            print(f"each once: {not wrong} {wrong}", flush=True)
            if not given.without_dataset:
                told = by_dataset(pairs, server, given.workers, given.paired, kill=False)
                print(f"caption_dataset: {told}", flush=True)
                told = by_dataset(pictures, server, given.workers, given.tasks, kill=True)
                print(f"caption_dataset, an actor killed: {told}", flush=True)
    finally:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
