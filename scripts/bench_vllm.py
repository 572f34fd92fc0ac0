"""Real vLLM on a CPU with the nano model: joycap, `vllm bench serve` and a plain loop, in turns.

Every turn gets pictures of its own, drawn alike, so that none finds them in the server's cache. A
rate counts from the first picture read to the last answer, by each contestant's own clock. CPU is
that of the contestant and of all the server's processes over the contestant's whole life, its start
included (for `vllm bench serve` that is an import of torch); the server spins while it is idle, and
nothing is taken off for that.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI
from PIL import Image, ImageChops
from serving import cpu_seconds, nano_server

from joycap_vllm.bench import GivenPictures
from joycap_vllm.bench.compare import bench_words, vllm_bench_rate, write_pictures
from joycap_vllm.bench.pictures import numbered
from joycap_vllm.prompts import build_prompt
from joycap_vllm.server import bench_command
from joycap_vllm.sources import open_source

from draw_pictures import draw, random_scene

MODEL = "joycap-nano"
SCENES = 12
PEER_IN_FLIGHT = 64
CALL = "from joycap_vllm.cli import main; main()"
OURS, THEIRS, PEER = "joycap caption", "vllm bench serve", "AsyncOpenAI loop, 64 in flight"


@dataclass(frozen=True)
class Kind:
    """Pictures of one size."""

    name: str
    width: int
    height: int
    quality: int
    grain: int
    count: int


@dataclass(frozen=True)
class Turn:
    """One contestant's turn: captions a second, and seconds of CPU a caption, its own and the
    server's."""

    who: str
    rate: float
    own: float
    server: float

    @property
    def cpu(self) -> float:
        """Seconds of CPU a caption."""
        return self.own + self.server


class Deck:
    """Pictures of a kind, dealt so that no two are the same."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        rng = random.Random(kind.name)
        self._scenes = [self._scene(rng) for _ in range(SCENES)]
        self._dealt = 0

    def _scene(self, rng: random.Random) -> bytes:
        kind = self.kind
        picture = draw(random_scene(rng), rng, kind.width, kind.height)
        noise = Image.frombytes("L", picture.size, rng.randbytes(kind.width * kind.height))
        middle = kind.grain
        grain = noise.point([value * 2 * kind.grain // 256 for value in range(256)])
        noisy = ImageChops.add(picture, Image.merge("RGB", (grain,) * 3), offset=-middle)
        with tempfile.TemporaryFile() as file:
            noisy.save(file, "JPEG", quality=kind.quality, subsampling=2)
            file.seek(0)
            return file.read()

    def deal(self, folder: Path, count: int) -> None:
        """Writes the next pictures into a folder."""
        folder.mkdir()
        for _ in range(count):
            round_, scene = divmod(self._dealt, SCENES)
            name = folder / f"{self._dealt:06}.jpg"
            name.write_bytes(numbered(self._scenes[scene], round_))
            self._dealt += 1


def children() -> float:
    """Seconds of CPU of the children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Match:
    """The contestants at one server."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self._home = home
        self._prompt = build_prompt("descriptive")
        self._command = bench_command(print)
        self._turns = 0

    def turn(self, who: str, deck: Deck, count: int, level: int = 0) -> Turn:
        """A contestant's turn with new pictures."""
        self._turns += 1
        folder = self._home / f"{self._turns}"
        deck.deal(folder, count)
        own, server = children(), cpu_seconds(self.url)
        if who == OURS:
            rate = self._ours(folder)
        elif who == PEER:
            rate = self._peer(folder)
        else:
            rate = self._theirs(folder, count, level)
        own, server = (children() - own) / count, (cpu_seconds(self.url) - server) / count
        shown = f"{who}, {level} in flight" if level else who
        cost = f"{own:.3f} s of its own CPU and {server:.3f} s of the server's each"
        print(f"  {shown}: {rate:.2f} captions/s, {cost}", flush=True)
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        return Turn(who, rate, own, server)

    def _ours(self, folder: Path) -> float:
        out = self._home / f"{self._turns}-out"
        words = ["caption", str(folder), "--base-url", self.url, "--out", str(out), "--json"]
        done = subprocess.run(
            [sys.executable, "-c", CALL, *words], capture_output=True, text=True, check=False
        )
        if not done.stdout:
            sys.exit(done.stderr)
        summary = json.loads(done.stdout.splitlines()[-1])
        return float(summary["tasks"]) / float(summary["seconds"])

    def _theirs(self, folder: Path, count: int, level: int) -> float:
        pictures = GivenPictures(list(open_source([str(folder)]).images()), 1 << 30)
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            write_pictures(home, pictures, self._prompt, count)
            words = bench_words(home, self.url, MODEL, self._prompt, level, count)
            return asyncio.run(vllm_bench_rate(self._command, words, home, None))

    def _peer(self, folder: Path) -> float:
        done = subprocess.run(
            [sys.executable, __file__, "--as-peer", self.url, str(folder)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return float(done.stdout)


async def peer(url: str, folder: Path) -> float:
    """The plain loop that tutorials show; captions a second."""
    client = AsyncOpenAI(base_url=url, api_key="none", timeout=600)
    prompt = build_prompt("descriptive")
    at_once = asyncio.Semaphore(PEER_IN_FLIGHT)

    async def caption(path: Path) -> None:
        async with at_once:
            picture = base64.b64encode(path.read_bytes()).decode()  # noqa: ASYNC240
            image = {"url": f"data:image/jpeg;base64,{picture}"}
            await client.chat.completions.create(
                model=MODEL,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": image},  # type: ignore[list-item]
                            {"type": "text", "text": prompt.text},
                        ],
                    },
                ],
                max_tokens=512,
                temperature=0.6,
                top_p=0.9,
            )

    paths = sorted(folder.iterdir())  # noqa: ASYNC240
    began = time.perf_counter()
    await asyncio.gather(*(caption(path) for path in paths))
    return len(paths) / (time.perf_counter() - began)


def contest(match: Match, kind: Kind, levels: Sequence[int], rounds: int) -> dict[str, Turn]:
    """Everyone's best turn with pictures of a kind."""
    deck = Deck(kind)
    print(f"{kind.name}: {kind.count} pictures a turn", flush=True)
    match.turn(PEER, deck, min(16, kind.count))  # what is slow once only
    tried = {level: match.turn(THEIRS, deck, kind.count, level) for level in levels}
    level = max(tried, key=lambda n: tried[n].rate)
    turns = list(tried.values())
    for _ in range(rounds):
        turns.append(match.turn(OURS, deck, kind.count))
        turns.append(match.turn(THEIRS, deck, kind.count, level))
        turns.append(match.turn(PEER, deck, kind.count))
    best: dict[str, Turn] = {}
    for turn in turns:
        if turn.who not in best or turn.rate > best[turn.who].rate:
            best[turn.who] = turn
    return best


def show(kind: Kind, best: dict[str, Turn]) -> None:
    """The rows of a kind, and its ratios."""
    for who in (OURS, THEIRS, PEER):
        turn = best[who]
        print(f"| {kind.name} | {who} | {turn.rate:.1f} captions/s | {turn.own:.3f} s | "
              f"{turn.server:.3f} s |")  # fmt: skip
    ours = best[OURS]
    print(f"{kind.name}: rate {ours.rate / best[THEIRS].rate:.2f} x vllm bench serve, "
          f"{ours.rate / best[PEER].rate:.2f} x the loop; "
          f"CPU {ours.cpu / best[PEER].cpu:.2f} x the loop's")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", type=int, default=300, help="of 1024x1024, a turn; 0: none")
    parser.add_argument("--large", type=int, default=64, help="of 12 megapixels; 0: none")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--as-peer", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer:
        print(asyncio.run(peer(given.as_peer[0], Path(given.as_peer[1]))))
        return 0
    kinds = (
        Kind("1024x1024", 1024, 1024, 88, 16, given.pictures),
        Kind("4000x3000", 4000, 3000, 80, 12, given.large),
    )
    with tempfile.TemporaryDirectory() as name, nano_server() as url:
        match = Match(url, Path(name))
        results = [
            (kind, contest(match, kind, given.levels, given.rounds)) for kind in kinds if kind.count
        ]
    for kind, best in results:
        show(kind, best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
