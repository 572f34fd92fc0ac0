"""Jobs and folders made by hand, for the tests of Review."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
from PIL import Image

from joycap_vllm.job.settings import JobSettings, check_settings
from joycap_vllm.outputs import SidecarOptions
from joycap_vllm.prompts import Prompt, build_prompt
from joycap_vllm.sources import files_source, key_of

GOOD = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 30


def picture(path: Path, color: tuple[int, int, int] = (200, 30, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), color).save(path, "PNG")
    return path


def row(key: str, settings: JobSettings, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    prompt = more.pop("prompt", settings.prompts[0].name)
    return {
        "v": 1, "key": key, "prompt": prompt, "fp": settings.fingerprints()[prompt],
        "outcome": outcome, "caption": GOOD, "glitch": None, "why": "", "attempts": [],
        "finish": "stop", "model": "m", "usage": {"prompt": 8, "cached": 6, "completion": 2},
        "image": None, "t": time.time() - 60,
    } | more  # fmt: skip


def glitched(key: str, settings: JobSettings, **more: Any) -> dict[str, Any]:
    bad = {"caption": LOOP, "glitch": "repetition", "why": "it says the same again and again"}
    return row(key, settings, "glitched", **bad | more)


def job_of(
    folder: Path, names: Iterable[str], *, prompts: tuple[Prompt, ...] = (), **options: Any
) -> JobSettings:
    """The settings of a job over some files of a folder, kept in its job.json."""
    prompts = prompts or (build_prompt("descriptive"),)
    tagged = frozenset(prompt.name for prompt in prompts if prompt.style == "tags")
    sidecars = SidecarOptions(
        tuple(prompt.name for prompt in prompts), folder, tag_prompts=tagged, **options
    )
    files = [folder / name for name in names]
    settings = JobSettings(files_source(folder, files), prompts, sidecars, folder / ".joycap")
    settings.state.mkdir(parents=True, exist_ok=True)
    check_settings(settings)
    return settings


def write_journal(folder: Path, rows: Iterable[dict[str, Any]], number: int = 1) -> Path:
    path = folder / ".joycap" / f"journal-host-{number}.jsonl"
    with path.open("ab") as file:
        for each in rows:
            file.write(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE))
    return path


def make_job(folder: Path, good: int = 3, bad: int = 2) -> JobSettings:
    """A job of some good and some glitched captions; `bad 0.png` comes first."""
    names = [f"bad {n}.png" for n in range(bad)] + [f"good {n}.png" for n in range(good)]
    for name in names:
        picture(folder / name)
    settings = job_of(folder, names)
    make = {"b": glitched, "g": row}
    write_journal(folder, [make[name[0]](name, settings) for name in names])
    for name in names[bad:]:
        (folder / name).with_suffix(".txt").write_text(GOOD, encoding="utf-8")
    return settings


def journal_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """All records of a folder in the order of their moments."""
    files = sorted((folder / ".joycap").glob("journal-*.jsonl"))
    rows = [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return iter(sorted(rows, key=lambda each: each["t"]))


def latest(folder: Path, key: str) -> dict[str, Any]:
    """What the journals say of an image in the end."""
    return [each for each in journal_rows(folder) if each["key"] == key][-1]


def key_in(folder: Path, path: Path) -> str:
    return key_of(path, folder)


@dataclass
class Reader:
    """Somebody who looks through a book."""

    client: httpx2.AsyncClient
    at: str = ""

    async def view(self, **wanted: str) -> dict[str, Any]:
        while True:
            reply = await self.client.get(f"{self.at}/view", params=wanted)
            assert reply.status_code == 200, reply.text
            data: dict[str, Any] = reply.json()
            if data["state"] == "ready":
                return data

    async def keys(self, **wanted: str) -> list[str]:
        return [item["key"] for item in (await self.view(**wanted))["items"]]

    async def item(self, key: str, **wanted: str) -> dict[str, Any]:
        items = (await self.view(**wanted))["items"]
        return next(item for item in items if item["key"] == key)

    async def post(self, to: str, /, **body: Any) -> httpx2.Response:
        return await self.client.post(f"{self.at}/{to}", json=body)

    async def edit(self, item: dict[str, Any], text: str, **more: Any) -> httpx2.Response:
        return await self.post("edit", id=item["id"], seen=item["seen"], text=text, **more)

    async def undo(self, **more: Any) -> httpx2.Response:
        last = (await self.view())["undo"]
        return await self.post("undo", edit=last["id"], **more)


Review = Callable[..., contextlib.AbstractAsyncContextManager[Reader]]
