"""The studio: a page to try prompts on pictures, and what it asks of the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from joycap_vllm.captioner import Attempt, Outcome
from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.context import GONE, JSON, Context, json_body, while_connected
from joycap_vllm.gateway.pages import page
from joycap_vllm.gateway.reply import refusal_of
from joycap_vllm.gateway.request import decode_image
from joycap_vllm.gateway.studio.ask import Ask, CaptionAsk, extra_groups, prompts_of, read_ask
from joycap_vllm.images import Prepared
from joycap_vllm.prompts import Prompt, Sampling, load_table

_LINES = "application/x-ndjson"
_BEAT = 5.0  # seconds without news, after which a line says that it is still at work
_FRAME = 0.1  # seconds between two looks at an answer that comes

_Tell = Callable[[dict[str, Any]], None]


def studio_routes(context: Context) -> list[BaseRoute]:
    """The page at `/`, and the routes below /studio."""
    door = _Studio(context)
    return [
        Route("/", door.show, methods=["GET"]),
        Route("/studio/prompt", door.prompt, methods=["POST"]),
        Route("/studio/caption", door.caption, methods=["POST"]),
    ]


class _Studio:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def show(self, request: Request) -> Response:
        """`GET /`."""
        table = load_table()
        return page(
            request,
            "studio.html",
            types=table.types,
            lengths=table.lengths,
            groups=extra_groups(),
            system=table.system_prompts[0],
            sampling=Sampling(),
            most_bytes=self._context.limits.body,
        )

    async def prompt(self, request: Request) -> Response:
        """`POST /studio/prompt`: the exact prompts that the same fields would ask with."""
        asked = read_ask(Ask, await json_body(request, self._context.limits))
        body = {"prompts": [_shown(prompt) for prompt in prompts_of(asked)]}
        return Response(orjson.dumps(body), media_type=JSON)

    async def caption(self, request: Request) -> Response:
        """`POST /studio/caption`: one picture, all its prompts at once, an event a line.

        A picture or a question that cannot be used is refused before the first line.
        """
        asked = read_ask(CaptionAsk, await json_body(request, self._context.limits))
        prompts = prompts_of(asked)
        pool = self._context.captioner.pool
        image = await while_connected(request, pool.prepare(lambda: decode_image(asked.image)))
        if image is None:
            return Response(status_code=GONE)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        lines = self._lines(request, image, prompts)
        return StreamingResponse(lines, media_type=_LINES, headers=headers)

    async def _lines(
        self, request: Request, image: Prepared, prompts: Sequence[Prompt]
    ) -> AsyncIterator[bytes]:
        news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def work() -> None:
            try:
                await while_connected(request, self._ask_all(image, prompts, news.put_nowait))
            finally:
                news.put_nowait(None)

        asking = asyncio.create_task(work())
        try:
            yield _line(self._start(image, prompts))
            while True:
                try:
                    event = await asyncio.wait_for(news.get(), _BEAT)
                except TimeoutError:
                    # It also keeps proxies from taking the silence for an end.
                    event = {"event": "waiting", "why": self._context.captioner.fleet.state}
                if event is None:
                    break
                yield _line(event)
            await asking
        finally:
            asking.cancel()

    def _start(self, image: Prepared, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return {
            "event": "start",
            "image": {"width": image.width, "height": image.height, "bytes": image.size},
            "prompts": [_shown(prompt) for prompt in prompts],
            "attempts": self._context.captioner.options.retries + 1,
        }

    async def _ask_all(self, image: Prepared, prompts: Sequence[Prompt], tell: _Tell) -> None:
        await asyncio.gather(*(self._ask(image, i, prompts[i], tell) for i in range(len(prompts))))

    async def _ask(self, image: Prepared, index: int, prompt: Prompt, tell: _Tell) -> None:
        whys: list[str] = []
        shown = 0.0

        def on_text(text: str) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _FRAME:
                shown = now
                tell({"event": "text", "prompt": index, "text": text})

        def on_answer(_: str, __: str, attempt: Attempt, why: str) -> None:
            whys.append(why)
            tell({"event": "attempt", "prompt": index, **_attempt(attempt, why)})

        try:
            outcome = await self._context.captioner.outcome(
                image, prompt, key=image.sha256, on_answer=on_answer, on_text=on_text
            )
        except JoycapError as error:
            refusal = orjson.loads(refusal_of(error).body)
            tell({"event": "error", "prompt": index, **refusal})
        else:
            tell({"event": "outcome", "prompt": index, **_outcome(outcome, whys)})


def _shown(prompt: Prompt) -> dict[str, Any]:
    titles = {row.name: row.title for row in load_table().types}
    return {
        "name": prompt.name,
        "title": titles.get(prompt.name, "Own prompt"),
        "style": prompt.style,
        "system": prompt.system,
        "text": prompt.text,
    }


def _attempt(attempt: Attempt, why: str) -> dict[str, Any]:
    return {
        "glitch": attempt.glitch,
        "why": why,
        "finish": attempt.finish,
        "seed": attempt.seed,
        "temperature": attempt.temperature,
        "ms": attempt.milliseconds,
        "error": attempt.error,
    }


def _outcome(outcome: Outcome, whys: Sequence[str]) -> dict[str, Any]:
    left = iter(whys)  # one for each attempt that was answered
    return {
        "outcome": outcome.outcome,
        "caption": outcome.caption,
        "glitch": outcome.glitch,
        "why": outcome.why,
        "trimmed": outcome.trimmed,
        "finish": outcome.finish,
        "model": outcome.model,
        "usage": {
            "prompt": outcome.usage.prompt,
            "cached": outcome.usage.cached,
            "completion": outcome.usage.completion,
        },
        "attempts": [_attempt(a, "" if a.error else next(left)) for a in outcome.attempts],
    }


def _line(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event) + b"\n"
