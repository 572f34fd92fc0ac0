"""Several prompts on an image, on two real vLLM servers: together against prompt by prompt.

The servers' caches hold fewer images than there are (--blocks), as those of a GPU do. Together is
one job with all types; apart is a job for each type. Every round draws pictures of its own. The
share of prompt tokens that came from the cache is by the servers' own counters, against what could:
the whole blocks of what the prompts on an image have in common, for every prompt but the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import JOYCAP, counter, metrics, nano_server

from joycap_vllm import build_prompt
from joycap_vllm.fleet import Endpoint, request_body
from joycap_vllm.fleet.proof import test_picture

from draw_pictures import fill_folder

JOBS = {
    "dual": ("--dual",),
    "three types": (
        *("--type", "descriptive"),
        *("--type", "straightforward"),
        *("--type", "booru-like-tag-list"),
    ),
}
APART = {
    "dual": (
        ("--type", "booru-like-tag-list", "--words", "50"),
        ("--type", "straightforward", "--words", "160"),
    ),
    "three types": (
        ("--type", "descriptive"),
        ("--type", "straightforward"),
        ("--type", "booru-like-tag-list"),
    ),
}


@dataclass(frozen=True)
class Round:
    """One round: captions a second together and apart, and shares of what the cache could give."""

    together: float
    apart: float
    cached: float
    cached_apart: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both kinds of job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=256, help="cache blocks of a server")
    given = parser.parse_args(arguments)
    small = ("--num-gpu-blocks-override", str(given.blocks))
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(nano_server(*small)) for _ in range(2)]
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print("| job | together, captions/s | prompt by prompt | ratio | cached of what could be |")
        print("|---|---|---|---|---|")
        for name in JOBS:
            rounds = [
                measure(place / f"{name}-{n}", name, urls, given.images, seed=n)
                for n in range(given.rounds)
            ]
            show(name, rounds)


def show(name: str, rounds: Sequence[Round]) -> None:
    """A row of the table, of medians."""
    together = statistics.median(r.together for r in rounds)
    apart = statistics.median(r.apart for r in rounds)
    ratio = statistics.median(r.together / r.apart for r in rounds)
    shares = [statistics.median(getattr(r, k) for r in rounds) for k in ("cached", "cached_apart")]
    print(
        f"| {name} | {together:.1f} | {apart:.1f} | {ratio:.2f} | {shares[0]:.1%} "
        f"(prompt by prompt {shares[1]:.1%}) |",
        flush=True,
    )


def measure(place: Path, name: str, urls: Sequence[str], images: int, *, seed: int) -> Round:
    """Both ways, each over pictures that no server has seen."""
    prompts = [_prompt(flags) for flags in APART[name]]
    could = images * (len(prompts) - 1) * asyncio.run(shared_tokens(urls[0], prompts))
    folders = [place / way for way in ("together", "apart")]
    for number, folder in enumerate(folders):
        fill_folder(folder, images, 1000 * seed + 10 * number + len(prompts))
    before = cached(urls)
    whole = job(folders[0], urls, JOBS[name], place / "out")
    between = cached(urls)
    parts = [
        job(folders[1], urls, flags, place / f"out-{n}") for n, flags in enumerate(APART[name])
    ]
    after = cached(urls)
    tasks = images * len(prompts)
    return Round(
        together=tasks / whole["seconds"],
        apart=tasks / sum(part["seconds"] for part in parts),
        cached=(between - before) / could,
        cached_apart=(after - between) / could,
    )


def job(folder: Path, urls: Sequence[str], flags: Sequence[str], out: Path) -> dict[str, Any]:
    """The summary of a whole job."""
    where = [word for url in urls for word in ("--base-url", url)]
    done = subprocess.run(
        [*JOYCAP, "caption", str(folder), *where, *flags, "--out", str(out), "--json"],
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("BENCH_LOUD") else subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if not done.stdout:
        sys.exit(f"the job over {folder} did not end: run it with BENCH_LOUD=1")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def cached(urls: Sequence[str]) -> float:
    """Prompt tokens that came from the servers' caches until now."""
    return sum(counter(metrics(url), "vllm:prefix_cache_hits_total") for url in urls)


async def shared_tokens(url: str, prompts: Sequence[str]) -> int:
    """Tokens in whole blocks that all these prompts on one image have in common."""
    block = int(re.findall(r'block_size="(\d+)"', metrics(url))[0])
    endpoint = Endpoint(url)
    try:
        await endpoint.probe(None)
        asked = [await endpoint.send(_body(endpoint, text), 60) for text in prompts]
    finally:
        await endpoint.close()
    rows = [answer.prompt_token_ids or () for answer in asked]
    common = next(
        (n for n, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1),
        min(map(len, rows)),
    )
    return common // block * block


def _body(endpoint: Endpoint, text: str) -> bytes:
    return request_body(
        model=endpoint.abilities.model,
        system=build_prompt().system,
        text=text,
        picture=test_picture(),
        mime="image/png",
        sampling={"max_tokens": 1, "return_token_ids": True},
    )


def _prompt(flags: Sequence[str]) -> str:
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    words = int(given["--words"]) if "--words" in given else None
    return build_prompt(given["--type"], words=words).text


if __name__ == "__main__":
    main()
