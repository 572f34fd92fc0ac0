"""One task, a picture and a question, on its way through its attempts to a judged outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

from joycap_vllm.errors import (
    ImageError,
    NoEndpointError,
    RejectedError,
    TransportError,
    UnreachableError,
)
from joycap_vllm.fleet import (
    Answer,
    Body,
    Endpoint,
    Fleet,
    OnText,
    Reply,
    Usage,
    request_body,
)
from joycap_vllm.glitch import (
    Ending,
    Glitch,
    Means,
    Next,
    Question,
    Tried,
    best_of,
    find_ending,
    judge,
    next_request,
)
from joycap_vllm.images import Picture

OutcomeKind = Literal["ok", "glitched", "failed"]
_BROKEN_MOST = 5  # broken requests of one task, while the test picture is answered, that blame it
_BROKEN_PAUSE = (0.1, 5.0)  # seconds, doubling


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of a task: how it was asked and what was wrong with it."""

    glitch: Glitch | None
    finish: str
    seed: int
    temperature: float
    endpoint: str
    milliseconds: float
    error: str = ""


# Told every answer as it comes: the image's key, the prompt's name, the attempt, its glitch's why.
OnAnswer = Callable[[str, str, Attempt, str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    Args:
        outcome: ok, glitched (attempts used up), or failed (no usable image, or refused request).
        caption: The text; of a glitched task the best there was, trimmed to its last whole
            sentence or tag where that removes the glitch.
        glitch: Kind of the answer's glitch.
        why: The glitch's evidence, or why it failed.
        attempts: Every request, in order.
        finish: `finish_reason` of the caption.
        model: The model's name.
        usage: Tokens of all attempts together.
        trimmed: Whether the caption of a glitched task is the good beginning of its answer.
        broken: Whether a failed task is one that the server broke on, and not one that it refused.
    """

    outcome: OutcomeKind
    caption: str | None
    glitch: Glitch | None = None
    why: str = ""
    attempts: tuple[Attempt, ...] = ()
    finish: str = ""
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    trimmed: bool = False
    broken: bool = False


class Task:
    """One task on its way through its attempts.

    Args:
        fleet: Who is asked.
        image: The picture.
        key: The image's key.
        question: What is asked, and the first seed.
        retries: Attempts beyond the first.
        told: Told every answer.
        on_text: Told the text of each answer as it comes; None has answers sent whole.
    """

    def __init__(
        self,
        fleet: Fleet,
        image: Picture,
        key: str,
        question: Question,
        *,
        retries: int,
        told: OnAnswer | None = None,
        on_text: OnText | None = None,
    ) -> None:
        self._fleet = fleet
        self._retries = retries
        self._told = told
        self._on_text = on_text
        self._image = image
        self._key = key
        self._question = question
        self._attempts: list[Attempt] = []
        self._answers: list[Answer] = []
        self._tried: list[Tried] = []
        self._whys: list[str] = []
        self._asked: Next

    async def run(self) -> Outcome:
        """Attempts until a caption, a refusal of the request, or the end of all attempts.

        Raises:
            NoEndpointError: No endpoint can be reached any more.
        """
        with self._fleet.seat(self._key):
            return await self._run()

    async def _run(self) -> Outcome:
        while (ending := find_ending(self._question, self._tried, retries=self._retries)) is None:
            try:
                await self._attempt()
            except RejectedError as error:
                self._note_error(error)
                # It took the question once, so a remedy is what it does not take.
                return self._without_more(f"the server refuses the request: {error}")
            except ImageError as error:
                return self._without_more(str(error))
            except _BlamedError as error:
                return replace(self._failed(str(error)), broken=True)
        return self._ended(ending)

    async def _attempt(self) -> None:
        reply = await self._reply()
        answer, prompt = reply.answer, self._question.prompt
        verdict = judge(
            answer.text,
            style=prompt.style,
            finish_reason=answer.finish or None,
            prompt=self._question.text,
            words=prompt.words,
        )
        self._answers.append(answer)
        self._tried.append(Tried(answer.text, verdict.glitch, answer.finish, answer.usage.prompt))
        self._whys.append(verdict.why)
        self._note(verdict.glitch, answer.finish, reply.endpoint, reply.milliseconds)

    async def _reply(self) -> Reply:
        """An answer, however often the way to it breaks, unless this task is what breaks it."""
        fleet, loop = self._fleet, asyncio.get_running_loop()
        broken, since = 0, 0.0
        while True:
            try:
                return await fleet.ask(self._key, self._body, first=bool(self._attempts))
            except TransportError as error:
                self._note_error(error)
                since = since or loop.time()
                broken += not isinstance(error, UnreachableError)
                if broken >= _BROKEN_MOST:
                    if await fleet.still_answers(error.endpoint):
                        raise _BlamedError(
                            f"the server broke {broken} times on it and is well otherwise: {error}"
                        ) from error
                    broken = 0
                patience = fleet.options.patience
                if loop.time() - since > patience and not fleet.answered_since(since):
                    words = f"no endpoint has answered for {patience:.0f} s"
                    raise NoEndpointError(f"{words}: {error}") from error
            await asyncio.sleep(min(_BROKEN_PAUSE[0] * 2**broken, _BROKEN_PAUSE[1]))

    def _body(self, endpoint: Endpoint) -> Body:
        abilities = endpoint.abilities
        means = Means(abilities.vllm, abilities.context)
        asked = next_request(self._question, self._tried, means, retries=self._retries)
        self._asked = asked
        return request_body(
            model=abilities.model,
            system=asked.system,
            text=asked.text,
            picture=self._image,
            mime=self._image.facts.mime,
            sampling={
                "temperature": asked.temperature,
                "max_tokens": asked.max_tokens,
                "seed": asked.seed,
                **asked.fields,
            },
            on_text=self._on_text,
        )

    def _note(
        self, glitch: Glitch | None, finish: str, endpoint: str, ms: float, error: str = ""
    ) -> None:
        seed, temperature = self._asked.seed, self._asked.temperature
        self._attempts.append(
            Attempt(glitch, finish, seed, temperature, endpoint, round(ms, 1), error)
        )
        if self._told is not None and not error:
            self._told(self._key, self._question.prompt.name, self._attempts[-1], self._whys[-1])

    def _note_error(self, error: RejectedError | TransportError) -> None:
        self._note(None, "", error.endpoint, error.milliseconds, str(error))

    def _without_more(self, why: str) -> Outcome:
        """Ends with the best of the answers there are."""
        if self._tried:
            return self._ended(best_of(self._question, self._tried))
        return self._failed(why)

    def _failed(self, why: str) -> Outcome:
        return Outcome("failed", None, why=why, attempts=tuple(self._attempts), usage=self._usage())

    def _ended(self, ending: Ending) -> Outcome:
        answer, why = self._answers[ending.index], self._whys[ending.index]
        text = answer.text.strip()
        if ending.trimmed is not None:
            why += f"; trimmed to {len(ending.trimmed)} of {len(text)} characters"
        return Outcome(
            outcome=ending.outcome,
            caption=text if ending.trimmed is None else ending.trimmed,
            glitch=self._tried[ending.index].glitch,
            why=why,
            attempts=tuple(self._attempts),
            finish=answer.finish,
            model=answer.model,
            usage=self._usage(),
            trimmed=ending.trimmed is not None,
        )

    def _usage(self) -> Usage:
        return sum((answer.usage for answer in self._answers), Usage())


class _BlamedError(Exception):
    """A task breaks a server that answers others."""


def seed_of(key: str) -> int:
    """The first seed for an image: the same in every run, different between images."""
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=4).digest()) >> 1
