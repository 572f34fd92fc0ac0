"""The engine: an image and a prompt in, a judged outcome out.

It joins three rooms: images are prepared, the fleet is asked, answers are judged, and glitches
are asked again until a caption comes or the attempts are used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from joycap_vllm.errors import (
    ImageError,
    NoCaptionError,
    NoEndpointError,
    RejectedError,
    TransportError,
    UnreachableError,
)
from joycap_vllm.fleet import (
    Answer,
    Endpoint,
    Fleet,
    FleetOptions,
    Proof,
    Reply,
    Usage,
    normal_url,
    prove_endpoint,
    request_body,
    require,
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
from joycap_vllm.images import ImagePool, Limits, Prepared, Wire
from joycap_vllm.prompts import Prompt, ask, build_prompt

DEFAULT_URL = "http://127.0.0.1:8000/v1"
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


@dataclass(frozen=True, slots=True)
class CaptionerOptions:
    """How a captioner works.

    Args:
        model: Name to ask for; None takes what each endpoint lists.
        api_key: Key for all endpoints.
        retries: Attempts for each task beyond the first. Only answers count: each glitch is asked
            again by its cause; what broke on the way is sent again without being counted.
        wire: How pictures are encoded; None takes a lossless form where every endpoint is a vLLM
            on this machine, else JPEG of quality 95.
        workers: Pictures prepared at once; None takes one for each core.
        limits: What is refused unread.
        check: Whether each endpoint gets a test picture first.
        fleet: Concurrency, deadline and patience.
    """

    model: str | None = None
    api_key: str | None = None
    retries: int = 4
    wire: Wire | None = None
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    check: bool = True
    fleet: FleetOptions = field(default_factory=FleetOptions)


class Captioner:
    """Captions images through a fleet of endpoints; use it as an async context manager.

    ```python
    async with Captioner("http://gpu:8000/v1") as joy:
        print(await joy.caption("dog.jpg", "straightforward"))
    ```

    Args:
        urls: Base URLs of OpenAI-compatible servers.
        options: How it works.

    Raises:
        NoEndpointError: On entering: none can be reached, or none passes its check.
    """

    def __init__(self, *urls: str, options: CaptionerOptions | None = None) -> None:
        self.options = options or CaptionerOptions()
        self.on_answer: OnAnswer | None = None
        self.notices: list[str] = []
        self._urls = tuple(dict.fromkeys(normal_url(url) for url in urls or (DEFAULT_URL,)))
        self._fleet: Fleet | None = None
        self._pool: ImagePool | None = None

    async def __aenter__(self) -> Captioner:
        endpoints = await self._usable_endpoints()
        near = all(e.loopback and e.abilities.vllm is not None for e in endpoints)
        wire = self.options.wire or ("bmp" if near else "jpeg")
        self._pool = ImagePool(self.options.workers, wire, self.options.limits)
        self._fleet = Fleet(endpoints, self.options.fleet)
        await self._fleet.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._fleet is not None:
            await self._fleet.__aexit__()
        if self._pool is not None:
            self._pool.close()

    @property
    def fleet(self) -> Fleet:
        """The fleet, while the captioner is open."""
        if self._fleet is None:
            raise RuntimeError("use the captioner as an async context manager: async with ...")
        return self._fleet

    @property
    def pool(self) -> ImagePool:
        """The pool that prepares pictures, while the captioner is open."""
        if self._pool is None:
            raise RuntimeError("use the captioner as an async context manager: async with ...")
        return self._pool

    async def caption(self, image: str | Path | bytes, prompt: str | Prompt = "descriptive") -> str:
        """The caption of one image.

        Args:
            image: A path, or the bytes of a picture file.
            prompt: A caption type by name, or a prompt.

        Raises:
            ImageError: The picture cannot be used.
            NoCaptionError: All attempts were glitches, or the server refused the request.
            NoEndpointError: No endpoint can be reached any more.
        """
        asked = build_prompt(prompt) if isinstance(prompt, str) else prompt
        read = (lambda: image) if isinstance(image, bytes) else (lambda: _read(Path(image)))
        prepared = await self.pool.prepare(read)
        outcome = await self.outcome(prepared, asked, key=prepared.sha256)
        if outcome.outcome != "ok" or outcome.caption is None:
            raise NoCaptionError(f"{outcome.glitch or 'failed'}: {outcome.why}")
        return outcome.caption

    async def outcome(
        self,
        image: Prepared,
        prompt: Prompt,
        *,
        key: str,
        text: str | None = None,
        earlier: int = 0,
    ) -> Outcome:
        """The judged outcome of one task, after as many attempts as it takes.

        Args:
            image: The prepared picture.
            prompt: What is asked.
            key: The image's key; it decides the home endpoint, the seed and a weighted choice.
            text: The exact text; None fills in the prompt without variables.
            earlier: Attempts of earlier runs; the seeds go on after theirs.

        Raises:
            NoEndpointError: No endpoint can be reached any more.
        """
        text = ask(prompt, key, {}) if text is None else text
        seed = seed_of(key) if prompt.sampling.seed is None else prompt.sampling.seed
        return await _Task(self, image, key, Question(prompt, text, seed + earlier)).run()

    async def _usable_endpoints(self) -> list[Endpoint]:
        fleet = self.options.fleet
        endpoints = [
            Endpoint(url, api_key=self.options.api_key, connections=fleet.concurrency or 1024)
            for url in self._urls
        ]
        try:
            proofs = await asyncio.gather(*(self._proof(endpoint) for endpoint in endpoints))
            good = [e for e, proof in zip(endpoints, proofs, strict=True) if proof.ok]
            bad = [proof for proof in proofs if not proof.ok]
            if not good:
                require(bad)
        except BaseException:
            await asyncio.gather(*(endpoint.close() for endpoint in endpoints))
            raise
        for proof in bad:
            self.notices.append(f"{proof.url} is left out: {'; '.join(proof.problems)}")
        await asyncio.gather(*(e.close() for e in endpoints if e not in good))
        return good

    async def _proof(self, endpoint: Endpoint) -> Proof:
        try:
            await endpoint.probe(self.options.model)
        except NoEndpointError as error:
            return Proof(endpoint.url, False, (str(error),), "")
        if not self.options.check:
            return Proof(endpoint.url, True, (), endpoint.abilities.model)
        return await prove_endpoint(endpoint)


class _Task:
    """One task on its way through its attempts."""

    def __init__(self, captioner: Captioner, image: Prepared, key: str, question: Question) -> None:
        self._captioner = captioner
        self._image = image
        self._key = key
        self._question = question
        self._attempts: list[Attempt] = []
        self._answers: list[Answer] = []
        self._tried: list[Tried] = []
        self._whys: list[str] = []
        self._asked = self._next(Means())

    async def run(self) -> Outcome:
        """Attempts until a caption, a refusal of the request, or the end of all attempts."""
        retries = self._captioner.options.retries
        while (ending := find_ending(self._question, self._tried, retries=retries)) is None:
            try:
                await self._attempt()
            except RejectedError as error:
                self._note_error(error)
                if self._tried:  # it took the question once, so a remedy is what it does not take
                    return self._ended(best_of(self._question, self._tried))
                return self._failed(f"the server refuses the request: {error}")
            except _BlamedError as error:
                return self._failed(str(error))
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
        fleet, loop = self._captioner.fleet, asyncio.get_running_loop()
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

    def _next(self, means: Means) -> Next:
        retries = self._captioner.options.retries
        return next_request(self._question, self._tried, means, retries=retries)

    def _body(self, endpoint: Endpoint) -> bytes:
        abilities = endpoint.abilities
        self._asked = asked = self._next(Means(abilities.vllm, abilities.context))
        return request_body(
            model=abilities.model,
            system=asked.system,
            text=asked.text,
            data_url=self._image.data_url,
            sampling={
                "temperature": asked.temperature,
                "max_tokens": asked.max_tokens,
                "seed": asked.seed,
                **asked.fields,
            },
        )

    def _note(
        self, glitch: Glitch | None, finish: str, endpoint: str, ms: float, error: str = ""
    ) -> None:
        seed, temperature = self._asked.seed, self._asked.temperature
        self._attempts.append(
            Attempt(glitch, finish, seed, temperature, endpoint, round(ms, 1), error)
        )
        told = self._captioner.on_answer
        if told is not None and not error:
            told(self._key, self._question.prompt.name, self._attempts[-1], self._whys[-1])

    def _note_error(self, error: RejectedError | TransportError) -> None:
        self._note(None, "", error.endpoint, error.milliseconds, str(error))

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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
