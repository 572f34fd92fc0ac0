"""What the client costs, paired with its peers: rates, CPU and memory against a stub server.

`scripts/bench client [--pictures N] [--large N] [--requests N] [--repeat N]`:
`joycap caption` as it is and with
`--wire original` (originals sent untouched; left out where this version has no such wire), beside
the loop over the openai client that tutorials show (behind a semaphore of 64 or 256, or all in one
gather), bare aiohttp with spliced base64, and Pillow
alone doing the image work on all cores. Each runs in a process of its own, all in turn, repeatedly;
medians count. The stub answers after 1 s and has 256 slots.

Then CPU for each request apart from image work: the same command with `prepare` replaced by one
that has its picture ready (60 KB as jpeg, 442 KB as bmp), so nothing has to be subtracted; and of
two runs of unequal length the difference, so that starting does not count; beside the openai
client's bare `post` of a ready body, and joycap's own request path without the job, in the same
minutes. Last, the most memory
at 512 in flight, with the image work, where answers take 3 s.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageChops
from stub_server import StubOptions, stub

from client_peers import READY, by_path, by_pillow, by_post, by_sdk, by_wire

SLOTS = 256
IN_FLIGHT = (512, 2048)
DISTINCT = 20


@dataclass(frozen=True)
class Run:
    """What a process took: pictures a second by its own clock, seconds of CPU, bytes at most."""

    pictures: int
    seconds: float
    cpu: float
    memory: int

    @property
    def rate(self) -> float:
        return self.pictures / self.seconds

    @property
    def each(self) -> float:
        """Milliseconds of CPU for a picture."""
        return self.cpu / self.pictures * 1e3


def draw(size: tuple[int, int], noise: float, quality: int) -> bytes:
    """A JPEG like a photograph to those who decode it: soft shapes under fine noise."""
    base = Image.merge("RGB", [Image.effect_noise((12, 9), 90).resize(size) for _ in range(3)])
    grain = Image.effect_noise(size, noise)
    buffer = io.BytesIO()
    ImageChops.overlay(base, Image.merge("RGB", [grain] * 3)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def fill(folder: Path, count: int, made: list[bytes]) -> Path:
    """A folder of so many pictures, hard links to a few."""
    folder.mkdir()
    for number in range(count):
        name = folder / f"{number:05}.jpg"
        if number < len(made):
            name.write_bytes(made[number])
        else:
            os.link(folder / f"{number % len(made):05}.jpg", name)
    return folder


def peer(name: str, folder: Path, url: str, at_once: int, wire: str) -> None:
    """A peer's whole process; prints the seconds that its work took."""
    files, cores = sorted(folder.iterdir()), os.cpu_count() or 1
    began = time.perf_counter()
    if name.startswith("sdk"):
        bound = name.removeprefix("sdk-")
        asyncio.run(by_sdk(url, files, len(files) if bound == "all" else int(bound)))
    elif name.startswith("post-"):
        asyncio.run(by_post(url, len(files), int(name.removeprefix("post-"))))
    elif name.startswith("path-"):
        asyncio.run(by_path(url, len(files), int(name.removeprefix("path-"))))
    elif name == "wire":
        asyncio.run(by_wire(url, files, at_once))
    elif name == "threads":
        by_pillow(ThreadPoolExecutor(cores), files, wire)
    else:
        by_pillow(ProcessPoolExecutor(cores), files, wire)
    print(json.dumps({"seconds": time.perf_counter() - began, "ok": len(files)}))


def tell_peak() -> None:
    """Writes this process's peak memory in KiB to where `measure` reads it.

    `wait4` would tell the parent's as it was when it forked, if that is more.
    """
    status = Path("/proc/self/status").read_text()
    Path(os.environ["BENCH_PEAK"]).write_text(status.partition("VmHWM:")[2].split()[0])


def joycap(ready: str | None, words: list[str]) -> None:
    """`joycap` with these words; where `ready` names a wire, its pictures are ready."""
    from joycap_vllm.cli import main
    from joycap_vllm.images import Prepared, pool

    if ready is not None:
        data = os.urandom(READY[ready])
        prepared = Prepared(data, f"image/{ready}", 384, 384, len(data), "0" * 64)
        pool.prepare = lambda *_: prepared  # type: ignore[attr-defined]
    sys.argv = ["joycap", *words]
    main()


def measure(arguments: list[str]) -> Run:
    """Runs this script with `--as`, and tells what the process and its children took."""
    command = [sys.executable, __file__, "--as", *arguments]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.NamedTemporaryFile("r") as peak,
    ):
        told_to = os.environ | {"BENCH_PEAK": peak.name}
        process = subprocess.Popen(command, stdout=out, stderr=err, env=told_to)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines, most = out.read().splitlines(), int(peak.read() or 0) << 10
        if process.returncode or not lines:
            raise SystemExit(err.read().decode()[-2000:])
    told = json.loads(lines[-1])
    return Run(told["ok"], told["seconds"], used.ru_utime + used.ru_stime, most)


def caption(folder: Path, out: Path, url: str, at_once: int, *more: str, ready: str = "") -> Run:
    """One job of `joycap caption`, from nothing."""
    # Deleted at the end: ext4 searches long for an inode where thousands were freed just before.
    out = Path(tempfile.mkdtemp(dir=out))
    words = ["caption", str(folder), "--base-url", url, "--out", str(out), "--json", "--no-check"]
    words += ["--concurrency", str(at_once), *more]
    return measure([f"joycap-{ready}" if ready else "joycap", *words])


def knows_original() -> bool:
    """Whether `joycap caption` sends originals untouched."""
    command = [sys.executable, __file__, "--as", "joycap", "caption", "--help"]
    wide = os.environ | {"COLUMNS": "200"}
    return "original" in subprocess.run(command, capture_output=True, text=True, env=wide).stdout


def rows(title: str, folder: Path, out: Path, repeat: int) -> Iterator[str]:
    """Rates, CPU and memory of all, measured in turn."""
    found: dict[str, list[Run]] = {}
    with stub(StubOptions(slots=SLOTS, latency=1.0)) as server:
        url = server.url
        runs: dict[str, Callable[[], Run]] = {
            "joycap caption": lambda: caption(folder, out, url, SLOTS),
            **{
                f"(a) openai client, originals, {bound} at once": partial(
                    measure, [f"sdk-{bound}", str(folder), url]
                )
                for bound in ("64", str(SLOTS), "all")
            },
            "(b) aiohttp, originals": lambda: measure(["wire", str(folder), url]),
            "(d) Pillow alone, threads": lambda: measure(["threads", str(folder), url]),
            "(d) Pillow alone, processes": lambda: measure(["processes", str(folder), url]),
        }
        if knows_original():
            original = "--wire", "original"
            runs["joycap caption --wire original"] = lambda: caption(
                folder, out, url, SLOTS, *original
            )
        for _ in range(repeat):
            for name, run in runs.items():
                found.setdefault(name, []).append(run())
    yield f"| {title} | pictures/s | CPU ms each | MB at most |\n|---|--:|--:|--:|"
    rate = {name: statistics.median(run.rate for run in runs) for name, runs in found.items()}
    for name, measured in found.items():
        each = statistics.median(run.each for run in measured)
        memory = statistics.median(run.memory for run in measured) / 1e6
        yield f"| {name} | {rate[name]:.1f} | {each:.2f} | {memory:.0f} |"
    pillow = max(value for name, value in rate.items() if name.startswith("(d)"))
    # No client is faster than the slots let it be, however fast its image work is.
    yield f"\njoycap / (d): {rate['joycap caption'] / min(pillow, SLOTS):.2f}"
    passed = rate.get("joycap caption --wire original")
    if passed is not None:
        yield f"original / (b): {passed / rate['(b) aiohttp, originals']:.2f}"
        for name in (name for name in rate if name.startswith("(a)")):
            yield f"original / {name}: {passed / rate[name]:.2f}"
    yield ""


def request_rows(folder: Path, out: Path, repeat: int, count: int) -> Iterator[str]:
    """CPU for each request apart from image work, by what is in flight; `count` is how many
    requests the longer of two runs has more."""
    yield "| in flight | what | CPU ms a request | at best |\n|--:|---|--:|--:|"
    picture = [draw((384, 384), 20, 85)]
    for at_once in IN_FLIGHT:
        less = fill(folder / f"less-{at_once}", 2 * at_once, picture)
        more = fill(folder / f"more-{at_once}", 2 * at_once + count, picture)
        found: dict[str, list[float]] = {}
        with stub(StubOptions(slots=2 * at_once, latency=1.0)) as server:
            for _ in range(repeat):
                for what in ("post", "path", *READY):
                    took = []
                    for files in (less, more):
                        if what in READY:
                            run = caption(files, out, server.url, at_once, ready=what)
                        else:
                            run = measure([f"{what}-{at_once}", str(files), server.url])
                        took.append(run.cpu)
                    found.setdefault(what, []).append((took[1] - took[0]) / count * 1e3)
        names = {"post": "openai's bare post, jpeg", "path": "joycap's request path alone, jpeg"}
        for what, each in found.items():
            name = names.get(what, f"the whole job, {what}")
            yield f"| {at_once} | {name} | {statistics.median(each):.2f} | {min(each):.2f} |"
    yield "\n| wire | MB at 512 in flight |\n|---|--:|"
    # Pictures of 384 x 384 would travel as they are.
    work = fill(folder / "work", 2000, [draw((400, 400), 20, 85)])
    with stub(StubOptions(slots=1024, latency=3.0)) as server:
        for wire in READY:
            most = caption(work, out, server.url, 512, "--wire", wire).memory
            yield f"| {wire} | {most / 1e6:.0f} |"


def main() -> int:
    """Prints the figures."""
    if sys.argv[1:2] == ["--as"]:
        name, *rest = sys.argv[2:]
        try:
            if name.startswith("joycap"):
                joycap(name.partition("-")[2] or None, rest)
            else:
                peer(name, Path(rest[0]), rest[1], SLOTS, "bmp")
        finally:
            if "BENCH_PEAK" in os.environ:
                tell_peak()
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=2000, help="of 1024 x 1024")
    parser.add_argument("--large", type=int, default=200, help="of 12 megapixels")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--folder", type=Path, help="where pictures and captions go, for a while")
    parser.add_argument("--requests", type=int, default=4000, help="of the second part; 0: none")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="joycap-bench-", dir=given.folder))
    (folder / "out").mkdir()
    kinds = {
        "1024x1024": (given.pictures, (1024, 1024), 21.0, 85),
        "12 megapixels": (given.large, (4000, 3000), 14.0, 75),
    }
    try:
        for name, (count, size, noise, quality) in kinds.items():
            if count:
                made = [draw(size, noise, quality) for _ in range(min(DISTINCT, count))]
                average = sum(map(len, made)) // len(made) // 1000
                pictures = fill(folder / name.replace(" ", "-"), count, made)
                title = f"{count:,} of {name}, {average} KB"
                for line in rows(title, pictures, folder / "out", given.repeat):
                    print(line, flush=True)
        if given.requests:
            for line in request_rows(folder, folder / "out", given.repeat, given.requests):
                print(line, flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
