"""Jobs for deploy/runpod/handler.py, as RunPod's own package hands them out.

scripts/check_runpod runs it, in an environment that has this package.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from stub_server import Stub, StubOptions, stub

HANDLER = Path(__file__).parents[2] / "deploy" / "runpod" / "handler.py"
JOBS = 60
AT_ONCE = 20


def picture() -> str:
    whole = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 100, 40)).save(whole, "PNG")
    return base64.b64encode(whole.getvalue()).decode()


def one(url: str, given: dict[str, Any]) -> tuple[int, str]:
    """What the handler says of one job in runpod's local test mode."""
    words = [sys.executable, str(HANDLER), "--test_input", json.dumps({"input": given})]
    environment = {**os.environ, "JOYCAP_BASE_URL": url, "RUNPOD_DEBUG_LEVEL": "INFO"}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    return done.returncode, done.stdout


def check_single_jobs(url: str) -> None:
    image = picture()
    for given in (
        {"image": image, "type": "straightforward", "words": 50, "extra": ["lighting", 3]},
        {"image": f"data:image/png;base64,{image}", "prompt": "What is red?"},
    ):
        code, said = one(url, given)
        assert (code, "{'caption': 'A photograph of" in said) == (0, True), said
    for given, why in (
        ({"image": image, "type": "nonsense"}, "no caption type is called 'nonsense'"),
        ({"image": image, "typ": "straightforward"}, "typ is not a valid input option"),
        ({"image": str(HANDLER)}, "no base64"),
        ({"image": "http://127.0.0.1/a.png"}, "not a public address"),
        ({"type": "straightforward"}, "image is a required input"),
    ):
        code, said = one(url, given)
        assert (code, why in said) == (1, True), said
    code, said = one("http://127.0.0.1:9/v1", {"image": image})
    assert (code, "cannot be reached" in said) == (1, True), said


class Queue:
    """RunPod's queue as a worker sees it: jobs are taken in batches, and results are posted."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self._jobs = jobs
        self.done: dict[str, dict[str, Any]] = {}
        self.posted = Counter[str]()
        self.whole = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        most = int(request.query.get("batch_size", 1))
        batch, self._jobs = self._jobs[:most], self._jobs[most:]
        if batch:
            return web.json_response(batch)
        await asyncio.sleep(0.2)
        return web.Response(status=204)

    async def post(self, request: web.Request) -> web.Response:
        name = request.match_info["job"]
        self.done[name] = json.loads(await request.text())
        self.posted[name] += 1
        if not self._jobs and len(self.done) == JOBS:
            self.whole.set()
        return web.Response()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{kind:job-take|job-take-batch}/{worker}", self.take)
        app.router.add_post("/job-done/{worker}/{job}", self.post)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


async def check_the_worker(server: Stub) -> None:
    image = picture()
    queue = Queue([{"id": f"job-{i}", "input": {"image": image}} for i in range(JOBS)])
    async with queue.serving() as url:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HANDLER),
            env={
                **os.environ,
                "JOYCAP_BASE_URL": server.url,
                "JOBS_AT_ONCE": str(AT_ONCE),
                "RUNPOD_DEBUG_LEVEL": "INFO",
                "RUNPOD_POD_ID": "worker",
                "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
                "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=none",
                "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        ended = asyncio.create_task(worker.communicate())
        whole = asyncio.create_task(queue.whole.wait())
        await asyncio.wait({ended, whole}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(ProcessLookupError):
            worker.terminate()
        said, _ = await asyncio.wait_for(ended, 60)
    assert len(queue.done) == JOBS, said.decode()
    assert set(queue.posted.values()) == {1}
    assert all("caption" in one["output"] for one in queue.done.values()), queue.done
    peak = server.stats()["peak"]
    assert AT_ONCE / 4 <= peak <= AT_ONCE, peak
    print(f"check_runpod: {JOBS} jobs, each answered once, up to {peak} at once")


def main() -> None:
    with stub(StubOptions(latency=0.1)) as server:
        check_single_jobs(server.url)
    with stub(StubOptions(latency=1.0)) as server:
        asyncio.run(check_the_worker(server))


if __name__ == "__main__":
    main()
