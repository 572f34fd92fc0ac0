"""AI-Toolkit's captioning service: its six routes, their shapes and their words.

Keys that the service did not have stand behind its own. Paths are those of this machine, and only
below the gateway's roots; what lies elsewhere and what is missing are answered alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from joycap_vllm.captioner import Outcome
from joycap_vllm.errors import JoycapError, NoEndpointError
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import GONE, JSON, Context, json_body, may_know, while_connected
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.roots import Placed, find_file, read_placed
from joycap_vllm.gateway.toolkit_ask import read_fields, read_paths, read_prompt
from joycap_vllm.images import Picture, Prepared
from joycap_vllm.prompts import Prompt, legacy_prompt, load_table

FAILED = "Failed to generate caption"
_AT_ONCE = 256  # pictures of a batch that are prepared or asked about at once
# Seconds between two bytes of a long batch: Node's fetch gives up after 300 without any.
_BEAT = 15.0
_OUTSIDE = "no file there; the gateway reads pictures below its --root folders only"


def toolkit_routes(context: Context, completions: Completions) -> list[BaseRoute]:
    """The service's routes; they must come before the gateway's own /health."""
    door = _Toolkit(context, completions)
    return [
        Route("/health", door.health, methods=["GET"]),
        Route("/progress", door.progress, methods=["GET"]),
        Route("/prompts", door.prompts, methods=["GET"]),
        Route("/caption", door.caption, methods=["POST"]),
        Route("/batch_caption", door.batch, methods=["POST"]),
        Route("/shutdown", door.shutdown, methods=["POST"]),
    ]


class _Toolkit:
    def __init__(self, context: Context, completions: Completions) -> None:
        self._context = context
        self._completions = completions

    async def health(self, request: Request) -> Response:
        """`GET /health`: always 200; `model_loaded` tells whether a server can be asked.

        The gateway knows its servers, not their GPUs, so it counts those.
        """
        fleet = self._context.captioner.fleet
        told = may_know(request, self._context)
        servers = sum(1 for member in fleet.members if not member.down_why)
        return _json(
            {
                "status": "healthy",
                "model_loaded": servers > 0,
                "gpu_available": servers > 0,
                "gpu_count": servers,
                "loading_progress": self._progress(told),
                "why": (fleet.state or None) if told else None,
            }
        )

    async def progress(self, _: Request) -> Response:
        """`GET /progress`."""
        return _json(self._progress(told=True))

    async def prompts(self, _: Request) -> Response:
        """`GET /prompts`."""
        table = load_table()
        texts = {style: legacy_prompt(style).text for style in table.legacy_styles}
        types = [row.title for row in table.types]
        return _json({"prompts": texts, "styles": list(texts), "joycaption_types": types})

    async def caption(self, request: Request) -> Response:
        """`POST /caption`."""
        fields = await self._fields(request, "image_path")
        path = fields["image_path"]
        if not isinstance(path, str):
            raise RefusedError(400, "image_path must be a text")
        placed = await self._find(path)
        if placed is None:
            return _json({"error": f"Image file not found: {path}", "reason": _OUTSIDE}, 404)
        prompt, since = self._prompt(fields), time.perf_counter()
        try:
            outcome = await while_connected(request, self._outcome(placed, prompt))
        except JoycapError as error:
            return _json({"error": FAILED, "reason": str(error)}, 500)
        if outcome is None:
            return Response(status_code=GONE)
        if outcome.outcome != "ok":
            return _json({"error": FAILED, **_trace(outcome)}, 500)
        return _json(
            {
                "success": True,
                "caption": outcome.caption,
                "prompt_used": prompt.text,
                "generation_time": time.perf_counter() - since,
                "image_path": path,
                **_trace(outcome),
            }
        )

    async def batch(self, request: Request) -> Response:
        """`POST /batch_caption`."""
        fields = await self._fields(request, "image_paths")
        paths = read_paths(fields["image_paths"])
        whole = self._captions(paths, self._prompt(fields))
        return StreamingResponse(_kept_alive(whole), media_type=JSON)

    async def shutdown(self, request: Request) -> Response:
        """`POST /shutdown`."""
        await json_body(request, self._context.limits)
        body = {"status": "shutting_down", "message": "Server is shutting down..."}
        return _json(body, after=self._stop)

    async def _stop(self) -> None:
        self._context.stop()

    def _progress(self, told: bool) -> dict[str, Any]:
        fleet = self._context.captioner.fleet
        down, why = fleet.down, fleet.state if told else "no server can be asked"
        return {
            "status": "error" if down else "ready",
            "message": why if down else "Model ready for captioning",
            "progress": 0.0 if down else 1.0,
            "current_file": "",
            "files_downloaded": 0,
            "total_files": 0,
        }

    async def _fields(self, request: Request, needed: str) -> dict[str, Any]:
        fields = read_fields(await json_body(request, self._context.limits))
        if needed not in fields:
            raise RefusedError(400, f"{needed} is required")
        return fields

    def _prompt(self, fields: dict[str, Any]) -> Prompt:
        return self._completions.fitting(read_prompt(fields))

    async def _find(self, path: object) -> Placed | None:
        if not isinstance(path, str):
            return None
        return await asyncio.to_thread(find_file, path, self._context.roots)

    async def _outcome(self, placed: Placed, prompt: Prompt) -> Outcome:
        captioner = self._context.captioner
        most = captioner.options.limits.file_bytes

        async def prepare() -> Prepared:
            return await captioner.pool.prepare(lambda: read_placed(placed, most))

        image = await prepare()
        return await captioner.outcome(Picture(image, again=prepare), prompt, key=image.sha256)

    async def _captions(self, paths: list[Any], prompt: Prompt) -> bytes:
        """The whole reply to a batch; every picture has its row, in the order of the request."""
        rows: list[dict[str, Any]] = [{} for _ in paths]
        todo, since = iter(enumerate(paths)), time.perf_counter()
        dead = ""  # the others need not wait for the servers as long as the first one did

        async def worker() -> None:
            nonlocal dead
            for at, path in todo:
                try:
                    rows[at] = _failure(path, dead) if dead else await self._row(path, prompt)
                except NoEndpointError as error:
                    dead = str(error)
                    rows[at] = _failure(path, dead)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(paths))):
                group.create_task(worker())
        good = sum(row["success"] for row in rows)
        return orjson.dumps(
            {
                "success": True,
                "results": rows,
                "total_images": len(rows),
                "successful_captions": good,
                "failed_captions": len(rows) - good,
                "total_time": time.perf_counter() - since,
                "prompt_used": prompt.text,
            }
        )

    async def _row(self, path: object, prompt: Prompt) -> dict[str, Any]:
        placed, since = await self._find(path), time.perf_counter()
        row = {"image_path": path, "success": False}
        if placed is None:
            return {**row, "error": "File not found", "reason": _OUTSIDE}
        try:
            outcome = await self._outcome(placed, prompt)
        except NoEndpointError:
            raise
        except JoycapError as error:
            return _failure(path, str(error))
        if outcome.outcome != "ok":
            return {**row, "error": FAILED, **_trace(outcome)}
        took = time.perf_counter() - since
        good = {"success": True, "caption": outcome.caption, "generation_time": took}
        return {**row, **good, **_trace(outcome)}


def _failure(path: object, why: str) -> dict[str, Any]:
    return {"image_path": path, "success": False, "error": FAILED, "reason": why}


def _trace(outcome: Outcome) -> dict[str, Any]:
    """What the judge saw, as keys that the service did not have."""
    glitches = [attempt.glitch for attempt in outcome.attempts if attempt.glitch is not None]
    seen = {"attempts": len(outcome.attempts), "glitches": glitches}
    if outcome.outcome == "ok":
        return {"finish_reason": outcome.finish, **seen}
    why = outcome.why if outcome.glitch is None else f"{outcome.glitch}: {outcome.why}"
    return {"reason": why, **seen}


async def _kept_alive(whole: Awaitable[bytes]) -> AsyncIterator[bytes]:
    """JSON that may take long: blanks before it keep the connection, and are no part of it."""
    work = asyncio.ensure_future(whole)
    try:
        while not work.done():
            await asyncio.wait((work,), timeout=_BEAT)
            if not work.done():
                yield b" "
        yield work.result()
    finally:
        work.cancel()


def _json(
    body: dict[str, Any], status: int = 200, after: Callable[[], Awaitable[None]] | None = None
) -> Response:
    background = None if after is None else BackgroundTask(after)
    return Response(orjson.dumps(body), status, media_type=JSON, background=background)
