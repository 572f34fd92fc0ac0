"""Ollama's way: scripts written for it caption through the gateway once OLLAMA_HOST names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from joycap_vllm import __version__
from joycap_vllm.captioner import Outcome
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import GONE, JSON, Context, read_body, while_connected
from joycap_vllm.gateway.gate import OverError
from joycap_vllm.gateway.ollama_ask import Asked, decode, read_chat, read_generate
from joycap_vllm.gateway.prompting import MODEL, model_names
from joycap_vllm.gateway.reply import (
    Refusal,
    RefusedError,
    Whole,
    refusal_for,
    trace_headers,
)

_VERSION = "0.12.0"  # of the API that is spoken
_LINES = "application/x-ndjson"
_CONTEXT = 4096  # tokens; told where the servers do not say


def ollama_routes(context: Context, completions: Completions) -> list[BaseRoute]:
    """The routes below /api, and the look at / by which Ollama's own tools find it."""
    door = _Ollama(context, completions)
    return [
        Route("/api/chat", door.chat, methods=["POST"]),
        Route("/api/generate", door.generate, methods=["POST"]),
        Route("/api/show", door.show, methods=["POST"]),
        Route("/api/pull", door.pull, methods=["POST"]),
        Route("/api/tags", door.tags, methods=["GET"]),
        Route("/api/ps", door.running, methods=["GET"]),
        Route("/api/version", door.version, methods=["GET"]),
        Route("/", door.look, methods=["HEAD"]),
    ]


class _Ollama:
    def __init__(self, context: Context, completions: Completions) -> None:
        self._context = context
        self._completions = completions
        self._since = _now()

    async def chat(self, request: Request) -> Response:
        """`POST /api/chat`."""
        asked = read_chat(await self._body(request))
        return await self._answer(
            request, asked, lambda text: {"message": {"role": "assistant", "content": text}}
        )

    async def generate(self, request: Request) -> Response:
        """`POST /api/generate`."""
        asked = read_generate(await self._body(request))
        return await self._answer(request, asked, lambda text: {"response": text})

    async def show(self, request: Request) -> Response:
        """`POST /api/show`: any name can be asked, so any name is known."""
        await self._body(request)
        family = {"general.architecture": "llava", "llava.context_length": self._context_length}
        return _json(
            {
                "modelfile": "",
                "parameters": "",
                "template": "",
                "details": _DETAILS,
                "model_info": family,
                "capabilities": ["completion", "vision"],
                "modified_at": self._since,
            }
        )

    async def pull(self, request: Request) -> Response:
        """`POST /api/pull`: scripts that fetch what is not listed find it there."""
        await self._body(request)
        return Response(orjson.dumps({"status": "success"}) + b"\n", media_type=_LINES)

    async def tags(self, _: Request) -> Response:
        """`GET /api/tags`."""
        return _json({"models": [self._model(name) for name in model_names()]})

    async def running(self, _: Request) -> Response:
        """`GET /api/ps`: the model, while a server can be asked."""
        if self._context.captioner.fleet.down:
            return _json({"models": []})
        loaded = self._model(MODEL)
        del loaded["modified_at"]
        loaded |= {"expires_at": _now(timedelta(days=1)), "size_vram": 0}
        return _json({"models": [{**loaded, "context_length": self._context_length}]})

    async def version(self, _: Request) -> Response:
        """`GET /api/version`."""
        return _json({"version": _VERSION, "joycap": __version__})

    async def look(self, _: Request) -> Response:
        """`HEAD /`."""
        return Response()

    async def _body(self, request: Request) -> bytes:
        # Ollama's own examples send no content type of JSON's. Browsers always say whose page it is
        # that posts to another origin, so what says nothing of that is no page.
        headers = request.headers
        by_page = "origin" in headers or "sec-fetch-site" in headers
        return await read_body(request, self._context.limits, any_type=not by_page)

    async def _answer(
        self, request: Request, asked: Asked, said: Callable[[str], dict[str, Any]]
    ) -> Response:
        started = time.perf_counter_ns()
        if asked.image is None and asked.chat is None:
            loaded = {**said(""), "done": True, "done_reason": "load"}
            return _json({**_head(asked.model), **loaded})
        ended = await while_connected(request, self._ended(asked, started))
        if ended is None:
            return Response(status_code=GONE)
        end = {"done": True, **ended.counts}
        if not asked.stream:
            whole = {**_head(asked.model), **said(ended.text), **end}
            return _json(whole, headers=ended.headers)
        lines = ({**said(ended.text), "done": False}, {**said(""), **end})
        body = b"".join(orjson.dumps({**_head(asked.model), **line}) + b"\n" for line in lines)
        return Response(body, media_type=_LINES, headers=ended.headers)

    async def _ended(self, asked: Asked, started: int) -> _Ended:
        """The text and how it came.

        Raises:
            RefusedError: There is none.
        """
        if asked.chat is not None:
            return _of_chat(await self._completions.whole(asked.chat), started)
        outcome, prepared = await self._outcome(asked.image or "", asked)
        if (refusal := refusal_for(outcome)) is not None:
            raise RefusedError(refusal.status, refusal.message)
        usage = (outcome.usage.prompt, outcome.usage.completion)
        counts = _counts(outcome.finish, usage, started, prepared)
        return _Ended(outcome.caption or "", counts, trace_headers(outcome))

    async def _outcome(self, image: str, asked: Asked) -> tuple[Outcome, int]:
        """The outcome, and when its picture was ready."""
        captioner = self._context.captioner
        picture = await captioner.pool.prepare(lambda: decode(image))
        prepared = time.perf_counter_ns()
        prompt = self._completions.fitting(asked.prompt)
        return await captioner.outcome(picture, prompt, key=picture.sha256), prepared

    def _model(self, name: str) -> dict[str, Any]:
        whole = f"{name}:latest"
        return {
            "name": whole,
            "model": whole,
            "modified_at": self._since,
            "size": 0,
            "digest": sha256(whole.encode()).hexdigest(),
            "details": _DETAILS,
        }

    @property
    def _context_length(self) -> int:
        members = self._context.captioner.fleet.members
        told = [member.endpoint.abilities.context for member in members]
        return min((context for context in told if context), default=_CONTEXT)


_DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "llava",
    "families": ["llava"],
    "parameter_size": "",
    "quantization_level": "",
}


@dataclass(frozen=True, slots=True)
class _Ended:
    text: str
    counts: dict[str, Any]
    headers: dict[str, str]


def _of_chat(whole: Whole, started: int) -> _Ended:
    """A chat completion of some server as what it says."""
    try:
        data = orjson.loads(whole.body)
        if whole.status != 200:
            words, headers = str(data["error"]["message"]), tuple(whole.headers.items())
            raise OverError(Refusal(whole.status, words, headers=headers))
        choice, usage = data["choices"][0], data.get("usage") or {}
        text, finish = choice["message"]["content"] or "", choice.get("finish_reason") or "stop"
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        status = 502 if whole.status == 200 else whole.status
        raise RefusedError(status, "the server's answer is no chat completion") from None
    tokens = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
    return _Ended(str(text), _counts(finish, tokens, started, started), dict(whole.headers))


def _counts(finish: str, tokens: tuple[int, int], started: int, prepared: int) -> dict[str, Any]:
    """Why it ended, and nanoseconds and tokens of all attempts together.

    The servers do not tell how long they read and how long they wrote, so the picture's preparation
    stands for the first.
    """
    ended = time.perf_counter_ns()
    return {
        "done_reason": "length" if finish == "length" else "stop",
        "total_duration": ended - started,
        "load_duration": 0,
        "prompt_eval_count": tokens[0],
        "prompt_eval_duration": max(prepared - started, 1),
        "eval_count": tokens[1],
        "eval_duration": max(ended - prepared, 1),
    }


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": _now()}


def _now(later: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) + later).isoformat().replace("+00:00", "Z")


def _json(
    body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(body), status, media_type=JSON, headers=headers)
