"""What the journal costs: CPU for each outcome, and reading millions of records on resume.

`scripts/bench journal [--records N] [--appends N] [--folder DIR]`: appends outcomes through the
real journal from 512 tasks at once, then makes a journal of so many records and reads it as a
resuming job does. `--records 4900000` takes 9 GB of disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from joycap_vllm.job import read_records

if TYPE_CHECKING:  # else loaded late: each process that reads a journal loads this file too
    from joycap_vllm.captioner import Outcome
    from joycap_vllm.job import Journal

AT_ONCE = 512
WORDS = [
    *("a", "an", "the", "old", "narrow", "green", "dusty", "bright", "tall", "broken", "quiet"),
    *("lantern", "bridge", "garden", "wall", "boat", "street", "hill", "window", "table", "house"),
    *("behind", "beside", "under", "above", "near", "and", "with", "of", "stands", "in", "light"),
]
TICK = os.sysconf("SC_CLK_TCK")


def outcome(draw: random.Random) -> Outcome:
    """An outcome such as JoyCaption's: about 200 words, one request."""
    from joycap_vllm.captioner import Attempt, Outcome
    from joycap_vllm.fleet import Usage

    attempt = Attempt(
        None, "stop", draw.getrandbits(32), 0.6, "http://127.0.0.1:8000/v1", draw.random() * 4000
    )
    caption = " ".join(draw.choices(WORDS, k=200)).capitalize() + "."
    return Outcome(
        outcome="ok",
        caption=caption,
        attempts=(attempt,),
        finish="stop",
        model="llama-joycaption-beta-one-hf-llava",
        usage=Usage(800, 640, 260),
    )


def line_of(number: int, made: Outcome) -> bytes:
    """The record of an outcome."""
    from joycap_vllm.images import Prepared
    from joycap_vllm.job.journal import make_line

    return make_line(
        key=f"photos/{number // 1000:05d}/image {number:09d}.jpg",
        prompt="descriptive",
        fingerprint="0123456789abcdef",
        outcome=made,
        image=Prepared(b"", "image/jpeg", 1024, 768, 150_000 + number % 1000, f"{number:064x}"),
        asked=None,
        stem=None,
        now=1.7e9 + number / 100,
    )


def appends(folder: Path, count: int) -> None:
    """Prints what an outcome costs."""
    from joycap_vllm.job import Journal

    draw = random.Random(5)
    outcomes = [outcome(draw) for _ in range(1000)]
    numbers = iter(range(count))
    syncs = 0
    really = os.fdatasync

    def counted(file: int) -> None:
        nonlocal syncs
        syncs += 1
        really(file)

    async def one(journal: Journal) -> None:
        for number in numbers:
            await journal.append(line_of(number, outcomes[number % 1000]))

    async def everything() -> None:
        async with Journal(folder) as journal:
            await asyncio.gather(*(one(journal) for _ in range(AT_ONCE)))

    os.fdatasync = counted  # type: ignore[assignment]
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(everything())
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    os.fdatasync = really
    print(
        f"append: {count:,} outcomes in {seconds:.1f} s, {cpu / count * 1e6:.1f} us of CPU for "
        f"each, {count / syncs:.0f} for each fdatasync"
    )


def make_journal(folder: Path, count: int) -> None:
    """A journal of so many records, not synced."""
    draw = random.Random(6)
    outcomes = [outcome(draw) for _ in range(1000)]
    folder.mkdir(parents=True)
    with (folder / "journal-bench-1.jsonl").open("wb", buffering=1 << 20) as file:
        for number in range(count):
            file.write(line_of(number, outcomes[number % 1000]))


class Watch:
    """What this process and those it starts take together.

    Args:
        memory: Bytes held at most.
        cpu: Seconds of CPU, by process.
    """

    def __init__(self) -> None:
        self.memory = 0
        self.cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._before = cpu_seconds(os.getpid())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu[os.getpid()] = cpu_seconds(os.getpid()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            processes = family(os.getpid())
            self.memory = max(self.memory, sum(map(resident, processes)))
            self.cpu |= {each: cpu_seconds(each) for each in processes}


def family(process: int) -> list[int]:
    """A process and all that come from it."""
    try:
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [each for task in tasks for each in (task / "children").read_text().split()]
    except OSError:
        return []
    return [process, *(each for child in children for each in family(int(child)))]


def resident(process: int) -> int:
    """Bytes that a process holds in memory, with its part of what it shares."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return int(text.split("Pss:")[1].split()[0]) << 10
    except (OSError, IndexError):
        return 0


def cpu_seconds(process: int) -> float:
    """Seconds of CPU that a process has taken, or none where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def reads(folder: Path) -> None:
    """Prints what reading a journal costs."""
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    before = resident(os.getpid())
    began = time.perf_counter()
    with Watch() as watch:
        records = read_records(folder)
    seconds = time.perf_counter() - began
    count, held = len(records), resident(os.getpid()) - before
    here = watch.cpu.pop(os.getpid())
    there = sum(watch.cpu.values())
    print(
        f"read: {count:,} records of {size / 1e9:.2f} GB in {seconds:.1f} s; CPU for each "
        f"{here / count * 1e6:.2f} us here and {there / count * 1e6:.2f} us in {len(watch.cpu)} "
        f"other processes; {held / count:.0f} bytes of memory for each; at most "
        f"{watch.memory / 1e6:.0f} MB over all processes, {before / 1e6:.0f} MB of them before"
    )
    numbers = random.Random(7).sample(range(count), min(count, 100_000))
    keys = [f"photos/{number // 1000:05d}/image {number:09d}.jpg" for number in numbers]
    cpu = time.process_time()
    found = sum(records.find(key, "descriptive") > 0 for key in keys)
    each = (time.process_time() - cpu) / len(keys)
    print(f"find: {each * 1e6:.2f} us of CPU for each ({found:,} of {len(keys):,} found)")


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000, help="records to read")
    parser.add_argument("--appends", type=int, default=100_000, help="outcomes to append")
    parser.add_argument("--folder", type=Path, help="where the journals are made, for a while")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="joycap-bench-", dir=given.folder))
    try:
        if given.appends:
            appends(folder / "appended", given.appends)
        if given.records:
            make_journal(folder / "read", given.records)
            reads(folder / "read")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
