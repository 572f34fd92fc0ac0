"""A job of 20,000 tasks against a server that answers with bad texts: what reaches the user?

A fault server in a process of its own gives a bad text to each attempt with the same chance, or,
with --sticky N, to the first N attempts of the images that chance picks. The same body always gets
the same answer. Good and bad texts come from a file of JSON lines with `text`, `label` (good or
bad), `kind`, `style` (prose, tags, mixed; nl, sd and structured are other words for these) and
perhaps `finish_reason`; without a file from a small set that is made up here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
from bench_judge import WRONG_LABELS, digest
from PIL import Image

from joycap_vllm import build_prompt

from fault_server import Asked, FaultServer, Reaction, say
from made_up_texts import Row, made_up_rows

TYPES = ("descriptive", "straightforward", "booru-like-tag-list", "stable-diffusion-prompt")
_STYLES = {"nl": "prose", "sd": "mixed", "structured": "mixed"}
_MOST_HANDED_OUT = 1e-4  # of all tasks
_MOST_REQUESTS = 1.05  # for each task, where faults do not stick


@dataclass(frozen=True)
class Bench:
    """What is run.

    Args:
        tasks: How many tasks, four for each image.
        rate: Chance of a bad answer.
        sticky: So many attempts of a bad image are bad; 0 draws each attempt by itself.
        texts: File of texts; None takes made-up ones.
        kinds: Bad kinds that are drawn; empty takes all.
    """

    tasks: int = 20_000
    rate: float = 0.03
    sticky: int = 0
    texts: Path | None = None
    kinds: frozenset[str] = frozenset()


@dataclass
class Ledger:
    """What the server answered: requests, bad ones by kind, tasks whose last answer was bad."""

    requests: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    last_bad: int = 0


@dataclass
class Result:
    """What came of it; `memory` is the job's peak in MB."""

    summary: dict[str, Any]
    ledger: Ledger
    handed_out: Counter[str]
    captions: int
    sidecars: int
    seconds: float
    memory: float

    @property
    def problems(self) -> list[str]:
        """Counts that do not add up."""
        summary, tasks = self.summary, self.summary["tasks"]
        ends = sum(summary[name] for name in ("ok", "skipped", "glitched", "failed"))
        checks = {
            "ok + skipped + glitched + failed is not tasks": ends == tasks,
            "the summary's requests are not the server's": (
                summary["requests"] == self.ledger.requests
            ),
            "captions in the journal are not those of the summary": self.captions == summary["ok"],
            "sidecars are not as many as captions": self.sidecars == summary["ok"],
            "bad last answers are neither glitched nor handed out": (
                self.ledger.last_bad == self.handed_out.total() + summary["glitched"]
            ),
        }
        return [problem for problem, fine in checks.items() if not fine]


def read_rows(path: Path | None) -> list[Row]:
    """The texts of a file but for those whose label is known to be wrong, or made-up ones."""
    if path is None:
        return made_up_rows()
    rows = []
    with path.open("rb") as file:
        for line in file:
            data = orjson.loads(line)
            if digest(data["text"]) in WRONG_LABELS:
                continue
            bad, kind = data["label"] == "bad", data["kind"]
            # A server always says that the token limit cut an answer, and that a whole one ended.
            usual = "length" if kind.startswith("truncated") else ("" if bad else "stop")
            style = _STYLES.get(data["style"], data["style"])
            rows.append(Row(data["text"], bad, kind, style, data.get("finish_reason") or usual))
    good = {row.text.strip() for row in rows if not row.bad}
    return [row for row in rows if not row.bad or row.text.strip() not in good]


class FaultyModel:
    """The fault server's script: a good or a bad text of the style that is asked for."""

    def __init__(self, bench: Bench) -> None:
        rows = read_rows(bench.texts)
        self._bench = bench
        self._styles = {(p := build_prompt(name)).text: p.style for name in TYPES}
        self._rows = {
            (style, bad): [
                r
                for r in rows
                if (r.style, r.bad) == (style, bad)
                and not (bad and bench.kinds and r.kind not in bench.kinds)
            ]
            for style in ("prose", "tags", "mixed")
            for bad in (False, True)
        }
        self._bodies: dict[tuple[int, str], list[bytes]] = {}
        self._last: dict[tuple[int, str], bool] = {}
        self.ledger = Ledger()

    def __call__(self, asked: Asked) -> Reaction:
        task = (hash(asked.image), asked.question)
        body = blake2b(asked.raw, digest_size=8).digest()
        draw = random.Random(body)
        style = self._styles[asked.question]
        bad = self._is_bad(task, asked, body) and bool(self._rows[style, True])
        row = draw.choice(self._rows[style, bad])
        self.ledger.requests += 1
        self.ledger.bad.update([row.kind] if bad else [])
        self._last[task] = bad
        return say(row.text, row.finish)

    def _is_bad(self, task: tuple[int, str], asked: Asked, body: bytes) -> bool:
        if not self._bench.sticky:
            return random.Random(body + b"?").random() < self._bench.rate
        bodies = self._bodies.setdefault(task, [])
        if body not in bodies:
            bodies.append(body)
        chance = random.Random(f"{asked.image}\n{asked.question}").random()
        return chance < self._bench.rate and bodies.index(body) < self._bench.sticky

    def closed_ledger(self) -> Ledger:
        """The ledger at the end."""
        self.ledger.last_bad = sum(self._last.values())
        return self.ledger


def serve(bench: Bench, pipe: Connection) -> None:
    """The server's process: tells its address, and its ledger when it is asked."""
    model = FaultyModel(bench)
    server = FaultServer(model, keep=False)
    pipe.send(server.url)
    pipe.recv()
    pipe.send(model.closed_ledger())
    server.close()


def run(bench: Bench, folder: Path) -> Result:
    """Draws the images into the folder, runs the job on them, and compares."""
    draw_pictures(folder, -(-bench.tasks // len(TYPES)))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(bench, theirs), daemon=True)
    server.start()
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-c", "from joycap_vllm.cli import main; main()", "caption", folder,
            "--base-url", ours.recv(), "--no-check", "--json", "--concurrency", "64",
            *(word for name in TYPES for word in ("--type", name)),
        ],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    ours.send("the end")
    ledger = ours.recv()
    server.join()
    kinds = {row.text.strip(): row.kind for row in read_rows(bench.texts) if row.bad}
    captions = [r["caption"] for r in journal(folder) if r["outcome"] == "ok"]
    return Result(
        summary=json.loads(done.stdout.splitlines()[-1]),
        ledger=ledger,
        handed_out=Counter(kinds[caption] for caption in captions if caption in kinds),
        captions=len(captions),
        sidecars=sum(1 for _ in folder.glob("*.txt")),
        seconds=seconds,
        memory=memory,
    )


def draw_pictures(folder: Path, count: int) -> None:
    """So many small pictures, all different even as JPEGs: their number in black and white."""
    for number in range(count):
        bits = bytes(255 * (number >> bit & 1) for bit in range(25))
        Image.frombytes("L", (5, 5), bits).save(folder / f"{number:06}.png")


def journal(folder: Path) -> Iterator[dict[str, Any]]:
    """Every record of the job."""
    for path in sorted((folder / ".joycap").glob("journal-*.jsonl")):
        for line in path.read_bytes().splitlines():
            yield orjson.loads(line)


def table(bench: Bench, result: Result) -> str:
    """What came of it, a line for each figure."""
    summary, bad = result.summary, result.ledger.bad.total()
    handed_out = result.handed_out.total()
    rejected = sum(summary["glitches"].values())
    each = summary["requests"] / summary["tasks"]
    ends = ("ok", "glitched", "failed")
    pace = summary["ok"] / result.seconds
    rows = (
        ("tasks", f"{summary['tasks']:,}"),
        ("requests, by the server's count", f"{result.ledger.requests:,}"),
        ("requests per task", f"{each:.4f}"),
        ("bad answers given", f"{bad:,}"),
        ("  and last for their task", f"{result.ledger.last_bad:,}"),
        ("  of these handed out", f"{handed_out}  {dict(result.handed_out.most_common()) or ''}"),
        ("good answers rejected", f"{rejected - (bad - handed_out):,}"),
        (", ".join(ends), ", ".join(f"{summary[name]:,}" for name in ends)),
        ("rejected, by kind", ", ".join(f"{k} {n}" for k, n in summary["glitches"].items())),
        ("seconds, captions per second", f"{result.seconds:.1f}, {pace:.0f}"),
        ("the job's peak memory", f"{result.memory:.0f} MB"),
        ("counts", "; ".join(result.problems) or "add up"),
    )  # fmt: skip
    title = f"rate {bench.rate:.1%}, " + (
        f"sticking for {bench.sticky} attempts" if bench.sticky else "each attempt by itself"
    )
    return "\n".join([title, *(f"  {name:<34}{value}" for name, value in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; 1 if the project's promise is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--texts", type=Path, help="file of texts; default: made-up ones")
    parser.add_argument("--tasks", type=int, default=20_000, help="four for each image")
    parser.add_argument("--rate", type=float, default=0.03, help="chance of a bad answer")
    parser.add_argument("--sticky", type=int, default=0, help="bad attempts of a bad image")
    parser.add_argument("--kinds", default="", help="bad kinds to draw, with commas; default: all")
    given = parser.parse_args(arguments)
    kinds = frozenset(kind for kind in given.kinds.split(",") if kind)
    bench = Bench(given.tasks, given.rate, given.sticky, given.texts, kinds)
    with tempfile.TemporaryDirectory(prefix="joycap-bench-") as folder:
        result = run(bench, Path(folder))
    print(table(bench, result))
    each = result.summary["requests"] / result.summary["tasks"]
    kept = (
        result.handed_out.total() <= max(1, _MOST_HANDED_OUT * result.summary["tasks"])
        and (bench.sticky > 0 or each <= _MOST_REQUESTS)
        and not result.problems
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
