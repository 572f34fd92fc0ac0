"""What image work costs, and how far it is from the exact result, over a folder of photographs.

    python scripts/bench_images.py photos/ --rounds 5

For each recipe and each wire: milliseconds of CPU for one picture (the best of all rounds), KB that
travel, and the PSNR of what the model is shown against Pillow's squash of all pixels. Pictures are
grouped by size, since only JPEGs of 1536 pixels and more on both sides are shrunk on load by
default. Made pictures tell nothing here: use photographs.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from joycap_vllm.errors import ImageError
from joycap_vllm.images import Recipe, Wire, prepare, squash, to_rgb

RECIPES: tuple[Recipe, ...] = ("exact", "default", "fast")
WIRES: tuple[Wire, ...] = ("bmp", "png0", "png", "jpeg", "original")


@dataclass(frozen=True, slots=True)
class Row:
    """One picture by one recipe over one wire; `decibels` is None where the server squashes."""

    picture: str
    milliseconds: float
    kilobytes: float
    decibels: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs, searched recursively")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for path in sorted(p for p in options.folder.rglob("*") if p.is_file()):
        try:
            data = path.read_bytes()
            group = group_of(data)
            for name, row in measured(path.name, data, options.rounds):
                rows[group, name].append(row)
        except (ImageError, OSError) as error:
            print(f"{path}: {error}", file=sys.stderr)
    print_table(rows)


def group_of(data: bytes) -> str:
    """By whether the default recipe shrinks a picture on load, and else by its pixels."""
    with Image.open(io.BytesIO(data)) as picture:
        pixels = picture.width * picture.height
        if picture.format == "JPEG" and min(picture.size) >= 4 * 384:
            return "jpeg, shrunk on load"
        size = "under" if pixels < 1e6 else "over"
        return f"{(picture.format or '?').lower()}, {size} 1 megapixel"


def measured(name: str, data: bytes, rounds: int) -> list[tuple[str, Row]]:
    """A row for each recipe without loss, and for each wire with the default recipe."""
    with Image.open(io.BytesIO(data)) as picture:
        exact = squash(to_rgb(picture))
    ways: list[tuple[str, Recipe, Wire]] = [(f"recipe {r}, bmp", r, "bmp") for r in RECIPES]
    ways += [(f"recipe default, {w}", "default", w) for w in WIRES if w != "bmp"]
    return [(title, row(name, data, exact, recipe, wire, rounds)) for title, recipe, wire in ways]


def row(name: str, data: bytes, exact: Image.Image, recipe: Recipe, wire: Wire, rounds: int) -> Row:
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        prepared = prepare(data, wire, recipe=recipe)
        best = min(best, time.process_time() - start)
    shown = to_rgb(Image.open(io.BytesIO(prepared.data)))
    far = decibels(shown, exact) if shown.size == exact.size else None
    return Row(name, best * 1e3, len(prepared.data) / 1e3, far)


def decibels(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio; infinite for equal pictures."""
    stat = ImageStat.Stat(ImageChops.difference(one, other))
    mean = sum(stat.sum2) / sum(stat.count)
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def print_table(rows: dict[tuple[str, str], list[Row]]) -> None:
    """Markdown: medians, and the lowest PSNR with its picture."""
    print("| pictures | way | ms CPU | KB | dB least | dB median | worst |")
    print("|---|---|--:|--:|--:|--:|---|")
    for (group, name), each in sorted(rows.items(), key=lambda item: item[0][0]):
        told = [(r.decibels, r.picture) for r in each if r.decibels is not None]
        least, worst = min(told) if told else (math.nan, "")
        median = statistics.median([d for d, _ in told]) if told else math.nan
        milliseconds = statistics.median([r.milliseconds for r in each])
        kilobytes = statistics.median([r.kilobytes for r in each])
        cost = f"{milliseconds:.2f} | {kilobytes:.0f}"
        print(f"| {len(each)} {group} | {name} | {cost} | {least:.1f} | {median:.1f} | {worst} |")


if __name__ == "__main__":
    main()
