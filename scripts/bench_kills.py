"""A job whose client is killed 500 times: is anything lost, doubled, or asked again without need?

A fault server in a process of its own logs every request. The client is killed with SIGKILL at
random times, most of them while it works, some while it starts, and the same command is run again,
until all kills are done; then once more to its end. What the server was asked, what the journals
held after each kill and what the sidecars say is compared at the end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crash.lives import Job, Life
from crash.server import ServerProcess

TYPES = ("descriptive", "straightforward")
_DELAY = (0.02, 0.15)  # seconds that an answer takes
_AT_START = 0.15  # part of the kills that come before the first request


@dataclass
class Kills:
    """Kills a job's client again and again; the draws depend on the seed alone."""

    job: Job
    tasks: int
    kills: int
    seed: int
    torn: int = 0  # kills that left a line of the journal unfinished
    halves: int = 0  # kills that left a temporary file
    done: int = 0
    start: float = 1.0  # seconds to a life's first request, of late

    def run(self) -> None:
        """Kills until all is done, or the job has come to its end too soon."""
        draws = random.Random(self.seed)
        while self.done < self.kills:
            early, part, rest = draws.random() < _AT_START, draws.random(), draws.random()
            life = self.job.begin()
            if early:
                self._watch(life, part * self.start)
            else:
                self._at_work(life, part, rest)
            ended = life.code
            self.job.end(life)
            if ended is not None:
                print(f"it ended before its kill, with code {ended}: {life.err}", file=sys.stderr)
                return
            self.done += 1
            self.torn += self.job.ledger.is_torn()
            self.halves += bool(self.job.ledger.litter())
            if self.done % 25 == 0:
                left = self.tasks - self.job.ledger.count
                print(f"{self.done} kills, {left:,} tasks left", file=sys.stderr, flush=True)

    def _at_work(self, life: Life, part: float, rest: float) -> None:
        asked, began = self.job.server.asked(), time.monotonic()
        self._watch(life, 60, asked + 1)
        self.start += 0.2 * (time.monotonic() - began - self.start)
        left = self.tasks - self.job.ledger.count
        # Twice a life's fair share at most, so that the kills are spread over the whole job.
        wanted = 2 * part * left / ((self.kills - self.done) * (1 - _AT_START) + 3)
        self._watch(life, 60, asked + 1 + int(wanted))
        self._watch(life, rest * _DELAY[1])

    def _watch(self, life: Life, seconds: float, asked: int | None = None) -> None:
        """Waits so long, or until so many requests have come, or until the life is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and life.code is None:
            if asked is not None and self.job.server.asked() >= asked:
                return
            time.sleep(min(0.003, max(0.0, end - time.monotonic())))


def table(kills: Kills, seconds: float) -> tuple[str, bool]:
    """What came of it, a line for each figure, and whether the promise is kept."""
    ledger = kills.job.ledger
    flying, repeated = ledger.in_flight(), ledger.repeated()
    asked = Counter(request.life for request in ledger.requests())
    early = sum(1 for life in flying if not asked[life])
    lost, doubled, again = ledger.lost(), ledger.doubled(), ledger.asked_again()
    problems = ledger.problems()
    most = max(flying.values())
    rows = (
        ("kills, before the first request", f"{kills.done:,}, {early:,}"),
        ("tasks, outcomes", f"{len(ledger.sidecars):,}, {ledger.count:,}"),
        ("lost, doubled", f"{len(lost):,}, {len(doubled):,}"),
        ("requests, repeated", f"{asked.total():,}, {repeated:,}"),
        ("in flight at kills, most at one", f"{sum(flying.values()):,}, {most:,}"),
        ("kept and asked again", f"{len(again):,}"),
        ("kills that tore a line, left a temporary file", f"{kills.torn:,}, {kills.halves:,}"),
        ("seconds", f"{seconds:.0f}"),
        ("books", "; ".join(problems[:5]) or "add up"),
    )
    text = "\n".join(f"{name:<48}{value}" for name, value in rows)
    return text, not problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; 1 if anything is lost, doubled, or repeated without need."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=20_000, help="two for each image")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="joycap-bench-") as name,
        ServerProcess(Path(name) / "log", _DELAY) as server,
    ):
        flags = ["--concurrency", str(given.concurrency)]
        count = -(-given.tasks // len(TYPES))
        job = Job(Path(name) / "pictures", server, count, flags=flags, types=TYPES)
        kills = Kills(job, count * len(TYPES), given.kills, given.seed)
        kills.run()
        job.live()
        text, kept = table(kills, time.monotonic() - began)
    print(text)
    return 0 if kept and kills.done == given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
