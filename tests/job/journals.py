"""Journals made by hand, and pages read back, for the tests of reports."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.job import make_report, write_page

VOID = {"meta", "img", "br", "rect", "link"}


def attempt(glitch: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "glitch": glitch, "finish": "stop", "seed": 1, "temperature": 0.6,
        "endpoint": "http://a/v1", "ms": 100.0, "error": None,
    } | more  # fmt: skip


def record(key: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "key": key, "prompt": "d", "fp": "f", "outcome": outcome, "caption": "A dog.",
        "glitch": None, "why": "", "attempts": [attempt()], "finish": "stop", "model": "m",
        "usage": {"prompt": 800, "cached": 600, "completion": 20}, "image": None, "t": 1e9,
    } | more  # fmt: skip


def journal(folder: Path, *rows: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "journal-host-1.jsonl"
    path.write_bytes(
        b"".join((r if isinstance(r, bytes) else orjson.dumps(r)) + b"\n" for r in rows)
    )
    return path


def looped(key: str, requests: int, **more: Any) -> dict[str, Any]:
    bad = {"glitch": "repetition", "why": "it loops"}
    return record(
        key, "glitched", attempts=[attempt("repetition") for _ in range(requests)], **bad | more
    )


class Page(HTMLParser):
    """A page as a browser would take it apart."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def page_of(folder: Path, **options: Any) -> Page:
    path = folder / "page.html"
    write_page(make_report([folder]), path, title="Job", **options)
    return Page(path)
