"""What the gateway costs: CPU for each request apart from image work, and memory, under load.

`scripts/bench gateway [--seconds N] [--in-flight N] [--size PIXELS] [--repeat N] [--profile FILE]`:
so many callers ask without a pause, through `joycap gateway` and directly, a stub server that
answers after 1 s. Stub, gateway and callers are processes of their own; CPU and memory are the
gateway's by /proc.

Image work is told apart twice: the same pictures are prepared alone, one after the other, and that
is subtracted; and the same load is put on a gateway whose pictures are ready (442 KB, as they go to
servers on this machine), so that nothing has to be subtracted. Of each run the first seconds, in
which the fleet's limits grow, do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pybase64
from stub_server import StubOptions, stub

from joycap_vllm.images import Prepared, pool, prepare

from bench_client import draw

DISTINCT = 20
WARM = 8.0  # seconds that do not count
READY = 442_500  # bytes of a picture as png0


@dataclass(frozen=True)
class Load:
    """What the callers saw: answers, errors, seconds, and the median and 99th percentile of
    seconds for an answer; and seconds of the callers' CPU."""

    answers: int
    errors: int
    seconds: float
    median: float
    late: float
    cpu: float


def picture_bodies(pictures: list[bytes]) -> list[bytes]:
    """The requests about these pictures."""
    bodies = []
    for picture in pictures:
        url = "data:image/jpeg;base64," + pybase64.b64encode(picture).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        messages = [{"role": "user", "content": parts}]
        bodies.append(orjson.dumps({"model": "joycaption", "messages": messages}))
    return bodies


async def ask(url: str, bodies: list[bytes], in_flight: int, seconds: float) -> Load:
    """Callers that ask without a pause."""
    took: list[float] = []
    errors, until = 0, time.perf_counter() + WARM + seconds
    headers = {"Content-Type": "application/json"}
    begin: list[tuple[float, float]] = []

    async def caller(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal errors
        at = number
        while (now := time.perf_counter()) < until:
            try:
                body = bodies[at % len(bodies)]
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                    good = answer.status == 200
            except aiohttp.ClientError:
                good = False
            at += 1
            if begin:
                errors += not good
                took.append(time.perf_counter() - now)

    async def start() -> None:
        await asyncio.sleep(WARM)
        begin.append((time.perf_counter(), time.process_time()))
        print("begin", flush=True)
        await asyncio.sleep(seconds)
        begin.append((time.perf_counter(), time.process_time()))
        begin.append((len(took), errors))
        print("end", flush=True)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        watch = asyncio.create_task(start())
        await asyncio.gather(*(caller(n, session) for n in range(in_flight)))
        await watch
    (first, cpu), (last, cpu_last), (count, wrong) = begin
    times = sorted(took[: int(count)]) or [0.0]
    late = times[int(0.99 * (len(times) - 1))]
    median = statistics.median(times)
    return Load(int(count), int(wrong), last - first, median, late, cpu_last - cpu)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def gateway(url: str, ready: bool, profile: str = "") -> Iterator[tuple[str, int]]:
    """A gateway in a process of its own: its address and its process."""
    port, how = free_port(), "ready" if ready else "real"
    command = [sys.executable, __file__, "--as-gateway", how, url, str(port), profile]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr or ():
                if "listening on" in line:
                    break
            yield f"http://127.0.0.1:{port}/v1", process.pid
        finally:
            process.terminate()
            process.wait()


def serve_gateway(how: str, url: str, port: str, profile: str) -> None:
    """`joycap gateway`; where its pictures are ready, they are only decoded from base64."""
    from joycap_vllm.cli import main

    if how == "ready":
        data = os.urandom(READY)
        made = Prepared(data, "image/png", 384, 384, len(data), "0" * 64)
        pool.prepare = lambda *_: made  # type: ignore[attr-defined]
    sys.argv = ["joycap", "gateway", "--port", port, "--base-url", url, "--no-check"]
    if not profile:
        main()
        return
    import cProfile
    import signal

    profiler = cProfile.Profile()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        profiler.runcall(main)
    finally:
        profiler.dump_stats(profile)


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def under_load(url: str, bodies: Path, given: argparse.Namespace, pid: int) -> tuple[Load, float]:
    """Puts the load on; tells what the callers saw, and seconds of the process's CPU."""
    settings = [url, str(bodies), str(given.in_flight), str(given.seconds)]
    command = [sys.executable, __file__, "--as-callers", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = iter(process.stdout or ())
        next(said)
        began, memory = cpu_of(pid), [memory_of(pid)]
        until = time.perf_counter() + given.seconds
        while (left := until - time.perf_counter()) > 0:
            time.sleep(min(left, given.seconds / 6))
            memory.append(memory_of(pid))
        next(said)
        used = cpu_of(pid) - began
        load = Load(**json.loads(next(said)))
    if pid != os.getpid():
        print("  MB, in turn: " + " ".join(f"{value:.0f}" for value in memory), flush=True)
    return load, used


def alone(pictures: list[bytes]) -> float:
    """Milliseconds of CPU that preparing one of these pictures takes."""
    for picture in pictures[:3]:
        prepare(picture, "png0")
    began, rounds = time.process_time(), 5
    for _ in range(rounds):
        for picture in pictures:
            prepare(picture, "png0")
    return (time.process_time() - began) / rounds / len(pictures) * 1e3


def tell(what: str, load: Load, used: float, less: float = 0.0) -> None:
    each = used / max(1, load.answers) * 1e3
    rest = f", {each - less:.2f} ms apart from image work" if less else ""
    print(
        f"{what}: {load.answers / load.seconds:.0f} answers/s, {load.errors} errors, "
        f"median {load.median:.2f} s, 99 % {load.late:.2f} s, "
        f"{each:.2f} ms CPU a request{rest}; the callers' own {load.cpu / load.answers * 1e3:.2f}",
        flush=True,
    )


def main() -> int:
    """Prints the figures."""
    if sys.argv[1:2] == ["--as-callers"]:
        url, folder, in_flight, seconds = sys.argv[2:]
        bodies = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
        load = asyncio.run(ask(f"{url}/chat/completions", bodies, int(in_flight), float(seconds)))
        print(json.dumps(load.__dict__))
        return 0
    if sys.argv[1:2] == ["--as-gateway"]:
        serve_gateway(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="that count, of each run")
    parser.add_argument("--in-flight", type=int, default=512, help="callers")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a picture each way")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=("direct", "ready", "real"), help="one of the runs")
    parser.add_argument("--profile", default="", help="where the gateway's cProfile goes")
    given = parser.parse_args()
    pictures = [draw((given.size, given.size), 21.0, 85) for _ in range(DISTINCT)]
    runs = [given.only] if given.only else ["direct", "ready", "real"]
    with (
        tempfile.TemporaryDirectory() as folder,
        stub(StubOptions(slots=2 * given.in_flight)) as server,
    ):
        bodies = picture_bodies(pictures)
        for number, body in enumerate(bodies):
            (Path(folder) / f"{number:02}").write_bytes(body)
        print(f"{given.in_flight} callers, bodies of {sum(map(len, bodies)) // DISTINCT:,} bytes")
        for _ in range(given.repeat):
            less = alone(pictures)
            print(f"image work alone: {less:.2f} ms CPU a picture", flush=True)
            for run in runs:
                if run == "direct":
                    load, _used = under_load(server.url, Path(folder), given, os.getpid())
                    tell("direct", load, 0.0)
                    continue
                with gateway(server.url, run == "ready", given.profile) as (url, pid):
                    load, used = under_load(url, Path(folder), given, pid)
                tell(f"gateway, {run} pictures", load, used, less if run == "real" else 0.0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
