"""How well and how fast answers are judged.

`scripts/bench judge [ROWS.jsonl]`: recall and false positives by kind and style over rows of
`{"text", "label": "good"|"bad", "kind", "style": "nl"|"tags"|"sd"|"structured", "finish_reason"}`,
then the time that a judgement takes. Without rows, only the time, over made-up prose.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from joycap_vllm import Verdict, judge
from joycap_vllm.prompts import Style

STYLES: dict[str, Style] = {"nl": "prose", "tags": "tags", "sd": "mixed", "structured": "mixed"}
LOOPS = ("repetition_loop", "repetition_loop_counter", "tag_list_loop")
COMMON = (*LOOPS, "truncated", "refusal", "template_leak", "empty")
OTHERS = (
    *("duplicated_caption", "repetition_loop_short", "gibberish", "language_switch"),
    *("prompt_echo", "reasoning_leak", "wrong_format_tags"),
)
BREAKS_OFF = "labelled good, breaks off in the middle of a sentence"
HEADING = "labelled a leak, but '### Human Health ...' is a heading of the answer's own"
# Rows of the development set whose label is wrong, by a digest of their text.
WRONG_LABELS = {
    "8a2e26be": HEADING,
    "4bb5cf50": HEADING,
    "e9929bf9": HEADING,
    "0f066d3d": HEADING,
    "52a64b8f": HEADING,
    "3593681d": HEADING,
    "bf929268": HEADING,
    "cdec5781": HEADING,
    "3fb96e26": HEADING,
    "83520833": HEADING,
    "20c27831": "labelled a refusal, but it is a sympathetic answer to a person",
    "02bb7e16": "labelled a loop, but it is a sum of ones, whole and right",
    "5fab667f": BREAKS_OFF,
    "66971b02": BREAKS_OFF,
    "d7898529": BREAKS_OFF,
    "eb286337": BREAKS_OFF,
    "ddc35537": BREAKS_OFF,
    "ee43cae2": BREAKS_OFF,
    "61cdb9a6": BREAKS_OFF,
    "d147bcdb": BREAKS_OFF,
    "20827fa1": BREAKS_OFF,
    "a5d5b721": BREAKS_OFF,
    "28f77808": BREAKS_OFF,
    "6553bc60": BREAKS_OFF,
    "5ff83bd2": "labelled good, but questions and answers follow the caption",
    "5e4e51fd": "labelled good, but a third of its sentences stand there twice",
    "59f5062b": "labelled good, but the instruction stands in place of the keywords",
    "e30eea1d": "labelled good, but says that it is not able to identify something",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its verdict."""

    row: dict[str, Any]
    verdict: Verdict
    wrong_label: str


def read_rows(path: Path) -> list[Judged]:
    """Every row, judged."""
    judged = []
    for line in path.read_bytes().splitlines():
        row = orjson.loads(line)
        style = STYLES[row["style"]]
        verdict = judge(row["text"], style=style, finish_reason=row.get("finish_reason"))
        judged.append(Judged(row, verdict, WRONG_LABELS.get(digest(row["text"]), "")))
    return judged


def digest(text: str) -> str:
    """Eight hex digits that name a text without quoting it."""
    return blake2b(text.encode(), digest_size=4).hexdigest()


def show_recall(judged: list[Judged], console: Console) -> None:
    """Found and missed by kind of glitch."""
    table = Table("kind of glitch", "rows", "found", "recall", "found as", title="Recall")
    bad = [j for j in judged if j.row["label"] == "bad"]
    for kind in sorted({j.row["kind"] for j in bad}):
        rows = [j for j in bad if j.row["kind"] == kind]
        as_kinds = Counter(j.verdict.glitch for j in rows if not j.verdict.ok)
        found = as_kinds.total()
        shown = ", ".join(f"{name} {count}" for name, count in as_kinds.most_common(3))
        table.add_row(kind, str(len(rows)), str(found), f"{found / len(rows):.1%}", shown)
    console.print(table)
    for name, kinds in (("loops, cuts, refusals, leaks, empties", COMMON), ("others", OTHERS)):
        rows = [j for j in bad if j.row["kind"] in kinds]
        # A cut can only be told for certain where the server said why it stopped.
        rows = [j for j in rows if j.row["kind"] != "truncated" or j.row.get("finish_reason")]
        sure = [j for j in rows if not j.wrong_label]
        found = sum(not j.verdict.ok for j in rows)
        console.print(
            f"{name}: {found} of {len(rows)} found; without wrong labels "
            f"{sum(not j.verdict.ok for j in sure)} of {len(sure)}, "
            f"{sum(not j.verdict.ok for j in sure) / len(sure):.2%}"
        )


def show_false_positives(judged: list[Judged], console: Console) -> None:
    """Good rows that were rejected, by style and by kind."""
    good = [j for j in judged if j.row["label"] == "good"]
    table = Table(
        "good texts", "rows", "rejected", "share", "labels wrong", title="False positives"
    )
    groups = [("all", good)]
    groups += [(f"style {s}", [j for j in good if j.row["style"] == s]) for s in STYLES]
    kinds = sorted({j.row["kind"] for j in good})
    groups += [(kind, [j for j in good if j.row["kind"] == kind]) for kind in kinds]
    for name, rows in groups:
        rejected = [j for j in rows if not j.verdict.ok]
        wrong = sum(bool(j.wrong_label) for j in rejected)
        share = len(rejected) / max(len(rows), 1)
        table.add_row(name, str(len(rows)), str(len(rejected)), f"{share:.2%}", str(wrong))
    console.print(table)


def show_disagreements(judged: list[Judged], console: Console) -> None:
    """Each row where label and verdict differ, by line and digest."""
    for number, j in enumerate(judged, 1):
        if j.verdict.ok == (j.row["label"] == "bad"):
            why = j.wrong_label or "not found" if j.verdict.ok else j.wrong_label or j.verdict.why
            console.print(
                f"line {number} {digest(j.row['text'])} {j.row['kind']}: {why}", style="dim"
            )


def show_speed(console: Console, long_texts: list[str]) -> None:
    """Microseconds for a judgement, the best of several rounds: machines are noisy."""
    table = Table("text", "median", "slowest", title="Time for a judgement")
    for name, texts, finish in (
        ("300 words, as a job judges them", long_texts, "stop"),
        ("300 words, as lint judges them", long_texts, None),
    ):
        times = [microseconds(text, finish) for text in texts]
        table.add_row(name, f"{statistics.median(times):.0f} us", f"{max(times):.0f} us")
    for length in (1_000, 10_000, 100_000):
        text = (" ".join(long_texts) * (1 + length // 20_000))[:length]
        per = microseconds(text, None)
        table.add_row(f"{length:,} characters", f"{per / 1000:.2f} ms", "")
    console.print(table)


def microseconds(text: str, finish: str | None) -> float:
    """The least time of several rounds for one judgement."""
    best = float("inf")
    for _ in range(9):
        began = time.perf_counter()
        judge(text, finish_reason=finish)
        best = min(best, time.perf_counter() - began)
    return best * 1e6


def made_up(count: int, words: int) -> list[str]:
    """Prose of so many words from a small grammar, different each time."""
    draw = random.Random(3)
    names = ["lantern", "bridge", "garden", "wall", "boat", "street", "hill", "window", "table"]
    looks = ["old", "narrow", "green", "dusty", "bright", "tall", "broken", "quiet", "painted"]
    places = ["behind", "beside", "under", "above", "in front of", "to the left of", "near"]
    verbs = ["stands", "leans", "rests", "hangs", "waits", "is seen", "casts a shadow"]

    def sentence() -> str:
        one, two, three = draw.sample(names, 3)
        a, b, c = draw.sample(looks, 3)
        return (
            f"The {a} {one} {draw.choice(verbs)} {draw.choice(places)} a {b} {two}, and a {c} "
            f"{three} {draw.choice(verbs)} {draw.choice(places)} it."
        )

    def text() -> str:
        said: list[str] = []
        while sum(map(len, map(str.split, said))) < words:
            said.append(sentence())
        return " ".join(said)

    return [text() for _ in range(count)]


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("rows", nargs="?", type=Path, help="JSONL of labelled texts")
    path = parser.parse_args().rows
    console = Console(width=110 if not sys.stdout.isatty() else None)
    texts = made_up(40, 300)
    if path is not None:
        judged = read_rows(path)
        show_recall(judged, console)
        show_false_positives(judged, console)
        show_disagreements(judged, console)
        good = [j.row["text"] for j in judged if j.row["label"] == "good"]
        texts = [text for text in good if 290 <= len(text.split()) <= 310] or texts
    show_speed(console, texts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
