"""Answers chat completions, whoever asks: a caller at the door, or a line of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from joycap_vllm.captioner import Captioner, Outcome
from joycap_vllm.errors import JoycapError
from joycap_vllm.gateway.fetch import RULES, Pictures
from joycap_vllm.gateway.passthrough import pass_whole, with_picture
from joycap_vllm.gateway.reply import (
    RefusedError,
    Whole,
    completion,
    events,
    refusal_for,
    refusal_of,
    trace_headers,
)
from joycap_vllm.gateway.request import Asked, Chat, read_request
from joycap_vllm.images import Picture
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import WebRules

_APART = 1 << 16  # between the seeds of two choices; the retries of one stay below
_IMAGE_TOKENS = 729 + 64  # of a picture, and of what the template puts around a question
_LEAST = 64  # tokens that are asked for however little room there seems to be


class Completions:
    """Chat completions over a captioner.

    Args:
        captioner: Open for as long as this is used.
        rules: Which addresses of pictures may be fetched.
    """

    def __init__(self, captioner: Captioner, rules: WebRules = RULES) -> None:
        self.captioner = captioner
        self._rules = rules

    @property
    def served(self) -> list[str]:
        """The names of the models that the fleet serves."""
        members = self.captioner.fleet.members
        return list(dict.fromkeys(station.endpoint.abilities.model for station in members))

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.captioner.pool, self._rules)

    def close(self) -> None:
        """Ends what fetches pictures."""
        self._pictures.close()

    def read(self, body: bytes) -> Asked | Chat:
        """As `read_request`."""
        return read_request(body, self.served)

    async def ready(self, chat: Chat) -> Chat:
        """A conversation with its picture as JoyCaption wants it, and none that the server would
        have to fetch.

        Raises:
            RefusedError, ImageError: As `Pictures.prepared`.
        """
        if chat.image is None:
            return chat
        return with_picture(chat, await self._pictures.prepared(chat.image))

    async def answer(self, body: bytes) -> Whole:
        """The whole answer to a request, or the refusal; a stream is answered whole too."""
        return await _told(self._answered(body))

    async def whole(self, asked: Asked | Chat) -> Whole:
        """The whole answer, or the refusal."""
        return await _told(self._whole(asked))

    async def streamed(self, asked: Asked) -> Whole:
        """The judged captions as server-sent events, or the refusal."""
        return await _told(self._streamed(asked))

    async def _answered(self, body: bytes) -> Whole:
        asked = self.read(body)
        if isinstance(asked, Chat) and asked.stream:
            rest = {k: v for k, v in asked.body.items() if k not in ("stream", "stream_options")}
            asked = replace(asked, body=rest, stream=False)
        return await self._whole(asked)

    async def _whole(self, asked: Asked | Chat) -> Whole:
        if isinstance(asked, Chat):
            return await pass_whole(self.captioner.fleet, await self.ready(asked))
        outcomes = await self._outcomes(asked)
        refusal = refusal_for(*outcomes)
        if refusal is not None:
            return Whole.of(refusal)
        return Whole(200, completion(asked.model, *outcomes), trace_headers(*outcomes))

    async def _streamed(self, asked: Asked) -> Whole:
        outcomes = await self._outcomes(asked)
        refusal = refusal_for(*outcomes)
        if refusal is not None:
            return Whole.of(refusal)
        body = b"".join(events(asked.model, *outcomes, with_usage=asked.stream_usage))
        headers = {**trace_headers(*outcomes), "Cache-Control": "no-cache"}
        return Whole(200, body, headers, "text/event-stream")

    async def _outcomes(self, asked: Asked) -> list[Outcome]:
        prepared = await self._pictures.prepared(asked.image)
        picture, prompt = Picture(prepared, sends=asked.n), self.fitting(asked.prompt)
        first = prompt.sampling.seed or 0
        return await _together(
            [
                self.captioner.outcome(
                    picture, _with_seed(prompt, first + number * _APART), key=prepared.sha256
                )
                for number in range(asked.n)
            ]
        )

    def fitting(self, prompt: Prompt) -> Prompt:
        """The prompt with no more answer tokens than the servers have room for: chat pages ask
        for thousands by default, which a server that is planned for captions refuses."""
        members = self.captioner.fleet.members
        contexts = [c for station in members if (c := station.endpoint.abilities.context)]
        if not contexts:
            return prompt
        asked = _IMAGE_TOKENS + (len(prompt.system) + len(prompt.text)) // 3
        most = max(min(contexts) - asked, _LEAST)
        sampling = prompt.sampling
        return replace(
            prompt, sampling=replace(sampling, max_tokens=min(sampling.max_tokens, most))
        )


def _with_seed(prompt: Prompt, seed: int) -> Prompt:
    return replace(prompt, sampling=replace(prompt.sampling, seed=seed))


async def _together(tasks: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    if len(tasks) == 1:
        return [await tasks[0]]
    try:
        async with asyncio.TaskGroup() as group:
            begun = [group.create_task(task) for task in tasks]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others ended with it
    return [task.result() for task in begun]


async def _told(work: Coroutine[Any, Any, Whole]) -> Whole:
    try:
        return await work
    except RefusedError as error:
        return Whole.of(error.refusal)
    except JoycapError as error:
        return Whole.of(refusal_of(error))
