"""How fast Review is over many captions: opening, pages, searches, edits, thumbnails, scrolling.

    python scripts/bench_review.py [--images 100000] [--no-browser]

Makes a job of so many pictures, three in a hundred of them glitched: links to some JPEGs of two
megapixels, a sidecar each, and a journal. Scrolling is measured in Chromium, where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import uvicorn
from bench_lint import LIGHTS, LOOKS, PLACES, THINGS, WHERE
from PIL import Image, ImageDraw

from joycap_vllm import Captioner
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.job.settings import JobSettings, check_settings
from joycap_vllm.outputs import SidecarOptions
from joycap_vllm.prompts import build_prompt
from joycap_vllm.sources import files_source

JPEGS = 40
FOLDER = 1000  # pictures in each
JUMPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-review-") as place:
        folder = Path(place, "set")
        os.environ["XDG_CACHE_HOME"] = str(Path(place, "cache"))
        make_job(folder, options.images)
        listener = socket.create_server(("127.0.0.1", 0))
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(listener, folder))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            asyncio.run(measure(url, options, Path(place, "cache"), server.pid or 0))
        finally:
            server.terminate()
            server.join()


def make_job(folder: Path, images: int) -> None:
    rng = random.Random(1)
    settings = JobSettings(
        files_source(folder, []),
        (build_prompt("descriptive"),),
        SidecarOptions(("descriptive",), folder),
        folder / ".joycap",
    )
    settings.state.mkdir(parents=True)
    check_settings(settings)
    print_of = settings.fingerprints()["descriptive"]
    jpegs = [draw(folder.parent / f"{n}.jpg", rng) for n in range(JPEGS)]
    with (settings.state / "journal-bench-1.jsonl").open("wb") as journal:
        for number in range(images):
            key = f"{number // FOLDER:04}/{number:07}.jpg"
            path = folder / key
            if number % FOLDER == 0:
                path.parent.mkdir()
            os.link(jpegs[number % JPEGS], path)
            good = rng.random() > 0.03
            caption = words(rng) if good else "a red car, " * 40
            if good:
                path.with_suffix(".txt").write_text(caption)
            journal.write(orjson.dumps(record(key, print_of, caption, good)) + b"\n")


def record(key: str, fingerprint: str, caption: str, good: bool) -> dict[str, Any]:
    attempt = {"glitch": None, "finish": "stop", "seed": 1, "temperature": 0.6, "ms": 900.0,
               "endpoint": "http://127.0.0.1:8000/v1", "error": None}  # fmt: skip
    return {
        "v": 1, "key": key, "prompt": "descriptive", "fp": fingerprint,
        "outcome": "ok" if good else "glitched", "caption": caption,
        "glitch": None if good else "repetition", "why": "" if good else "it loops",
        "attempts": [attempt], "finish": "stop", "model": "joycaption",
        "usage": {"prompt": 800, "cached": 700, "completion": 90},
        "image": {"width": 1920, "height": 1080, "bytes": 90_000, "sha256": "0" * 64},
        "t": time.time() - 60,
    }  # fmt: skip


def words(rng: random.Random) -> str:
    pick = rng.choice
    return " ".join(
        f"A {pick(LOOKS)} {pick(THINGS)} stands {pick(WHERE)} a {pick(LOOKS)} {pick(THINGS)} "
        f"in the {pick(PLACES)}. {pick(LIGHTS)} on it."
        for _ in range(4)
    )


def draw(path: Path, rng: random.Random) -> Path:
    noise = Image.effect_noise((480, 270), 60).resize((1920, 1080)).convert("RGB")
    pen = ImageDraw.Draw(noise)
    for _ in range(12):
        x, y, r = rng.randrange(1920), rng.randrange(1080), rng.randrange(40, 400)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in "rgb"))
    noise.save(path, quality=90)
    return path


def serve(listener: socket.socket, folder: Path) -> None:
    app = make_app(Context(Captioner("http://127.0.0.1:1/v1"), roots=(folder,)))
    config = uvicorn.Config(app, lifespan="off", log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


async def measure(url: str, options: argparse.Namespace, cache: Path, server: int) -> None:
    rng = random.Random(2)
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        at = (await _up(client)).headers["location"]
        began = time.perf_counter()
        view = (await client.get(f"{at}/view")).json()
        while view["state"] != "ready":  # each answer waits a little for it
            view = (await client.get(f"{at}/view")).json()
        tell("the book is read", time.perf_counter() - began)
        tell("memory of the gateway", memory(server), "MiB")

        async def page() -> None:
            offset = rng.randrange(view["total"])
            query = {"view": view["view"], "offset": offset, "count": 60}
            (await client.get(f"{at}/items", params=query)).raise_for_status()

        async def search() -> None:
            await client.get(f"{at}/view", params={"text": rng.choice(THINGS)})

        async def filtered() -> None:
            await client.get(f"{at}/view", params={"outcome": "glitched"})

        async def edit() -> None:
            item = rng.choice(view["items"])
            text = {"id": item["id"], "text": words(rng)}
            (await client.post(f"{at}/edit", json=text)).raise_for_status()

        await each("a page of 60", page, 100)
        await each("a search", search, 20)
        await each("only the glitched", filtered, 20)
        await each("an edit", edit, 50)
        items = view["items"]

        async def pictures() -> None:
            await asyncio.gather(*(client.get(f"{at}/picture/{item['id']}") for item in items))

        await each("60 thumbnails, made", pictures, 1)
        await each("60 thumbnails, kept", pictures, 5)
    if not options.no_browser:
        await scroll(url, cache)
    tell("memory of the gateway at the end", memory(server), "MiB")


async def _up(client: httpx2.AsyncClient) -> httpx2.Response:
    while True:
        try:
            return await client.get("/review")
        except httpx2.ConnectError:
            await asyncio.sleep(0.05)


async def each(what: str, work: Callable[[], Awaitable[None]], times: int) -> None:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append(time.perf_counter() - began)
    took.sort()
    tell(f"{what}: median", took[len(took) // 2])
    if times > 1:
        tell(f"{what}: slowest of {times}", took[-1])


async def scroll(url: str, cache: Path) -> None:
    from playwright.async_api import async_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return
    full = "[...document.querySelectorAll('.tile img')].every(i => i.src && i.complete)"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shutil.rmtree(cache, ignore_errors=True)
        for kind in ("thumbnails to be made", "thumbnails kept"):
            page = await browser.new_page(viewport={"width": 1280, "height": 800}, bypass_csp=True)
            began = time.perf_counter()
            await page.goto(f"{url}/review")
            await page.wait_for_selector(".tile img[src]")
            tell(f"first captions in the browser ({kind})", time.perf_counter() - began)
            await page.wait_for_function(f"document.querySelector('.tile') && {full}")
            tell(f"first page with pictures ({kind})", time.perf_counter() - began)
            rng = random.Random(3)

            async def jump(page: Any = page, rng: random.Random = rng) -> None:
                part = rng.random()
                await page.evaluate(_JUMP, part)
                await page.wait_for_function(full, polling=10)

            await each(f"a jump anywhere until all is drawn ({kind})", jump, JUMPS)
            frames = await page.evaluate(_FRAMES)
            tell(f"slowest frame of a second of scrolling ({kind})", frames["worst"] / 1000)
            tell(f"frames in that second ({kind})", frames["count"], "")
            await page.close()
        await browser.close()


_JUMP = """(part) => new Promise((done) => {
  const pane = document.getElementById("pane");
  pane.scrollTop = part * (pane.scrollHeight - pane.clientHeight);
  requestAnimationFrame(() => requestAnimationFrame(done)); // by then the new cards are there
})"""
_FRAMES = """() => new Promise((done) => {
  const pane = document.getElementById("pane");
  const began = performance.now();
  let last = began, worst = 0, count = 0;
  const step = (now) => {
    worst = Math.max(worst, now - last); last = now; count += 1; pane.scrollTop += 40;
    if (now - began < 1000) requestAnimationFrame(step); else done({ worst, count });
  };
  requestAnimationFrame(step);
})"""


def memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def tell(what: str, value: float, unit: str = "s") -> None:
    print(json.dumps({"what": what, "value": round(value, 4), "unit": unit}), flush=True)


if __name__ == "__main__":
    main()
