"""The engine: an image and a prompt in, a judged outcome out.

It joins three rooms: images are prepared, the fleet is asked, answers are judged, and glitches
are asked again until a caption comes or the attempts are used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.errors import ImageError, NoCaptionError, NoEndpointError
from joycap_vllm.fleet import (
    CONNECTIONS,
    Endpoint,
    Entry,
    Fleet,
    FleetOptions,
    Listing,
    Proof,
    Roll,
    find_places,
    form_for,
    listing_of,
    normal_url,
    notes_on,
    usable,
)
from joycap_vllm.glitch import Question
from joycap_vllm.images import ImagePool, Limits, Picture, Prepared, Recipe, Wire
from joycap_vllm.prompts import Prompt, ask, build_prompt
from joycap_vllm.task import Attempt, OnAnswer, Outcome, OutcomeKind, Task, seed_of

__all__ = [
    "DEFAULT_URL",
    "Attempt",
    "Captioner",
    "CaptionerOptions",
    "OnAnswer",
    "Outcome",
    "OutcomeKind",
    "seed_of",
]

DEFAULT_URL = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True, slots=True)
class CaptionerOptions:
    """How a captioner works.

    Args:
        model: Name to ask for; None takes what each endpoint lists.
        api_key: Key for all endpoints.
        retries: Attempts for each task beyond the first. Only answers count: each glitch is asked
            again by its cause; what broke on the way is sent again without being counted.
        wire: How pictures travel; None takes a lossless form where every endpoint is on this
            machine or near it, else JPEG of quality 95.
        recipe: How exactly pictures are prepared; None takes `default`, and for a job that is
            asked again the job's own.
        workers: Pictures prepared at once; None takes one more than there are cores.
        limits: What is refused unread.
        check: Whether each endpoint gets a test picture first.
        endpoints: More endpoints, which may come and go while it is open: a file with a base URL
            on each line, or `dns+http://NAME:PORT` for every address of a name. Empty is none.
        fleet: Concurrency, deadline and patience.
    """

    model: str | None = None
    api_key: str | None = None
    retries: int = 4
    wire: Wire | None = None
    recipe: Recipe | None = None
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    check: bool = True
    endpoints: str = ""
    fleet: FleetOptions = field(default_factory=FleetOptions)

    def __post_init__(self) -> None:
        if self.endpoints:
            listing_of(self.endpoints)


class Captioner:
    """Captions images through a fleet of endpoints; use it as an async context manager.

    ```python
    async with Captioner("http://gpu:8000/v1") as joy:
        print(await joy.caption("dog.jpg", "straightforward"))
    ```

    Args:
        urls: Base URLs of OpenAI-compatible servers; none are those of `options.endpoints`, or
            the one of this machine.
        options: How it works.

    Raises:
        UsageError: A base URL is none.
        NoEndpointError: On entering: none can be reached, or none passes its check.
    """

    def __init__(self, *urls: str, options: CaptionerOptions | None = None) -> None:
        self.options = options or CaptionerOptions()
        self.on_answer: OnAnswer | None = None
        self.on_outcome: Callable[[Outcome], None] | None = None
        self.notices: list[str] = []
        default = () if self.options.endpoints else (DEFAULT_URL,)
        self._urls = tuple(dict.fromkeys(normal_url(url) for url in urls or default))
        self._following: asyncio.Task[None] | None = None
        self._fleet: Fleet | None = None
        self._pool: ImagePool | None = None

    async def __aenter__(self) -> Captioner:
        options = self.options
        listing = listing_of(options.endpoints) if options.endpoints else None
        entry = self._entry()
        endpoints, left_out = await self._usable(listing, entry)
        try:
            wire = options.wire or await self._wire_to(endpoints)
        except BaseException:  # as where it is cancelled; nobody else knows them by now
            await asyncio.gather(*(endpoint.close() for endpoint in endpoints))
            raise
        self._pool = ImagePool(options.workers, wire, options.limits, options.recipe or "default")
        self._fleet = Fleet(endpoints, self.options.fleet)
        await self._fleet.__aenter__()
        if listing is not None or left_out:
            roll = Roll(self._fleet, listing, entry, always=self._urls, left_out=left_out)
            self._following = asyncio.create_task(roll.follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
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
        image: Prepared | Picture,
        prompt: Prompt,
        *,
        key: str,
        text: str | None = None,
        earlier: int = 0,
        on_answer: OnAnswer | None = None,
    ) -> Outcome:
        """The judged outcome of one task, after as many attempts as it takes.

        Args:
            image: The prepared picture; as `Picture` it may be let go once it is sent.
            prompt: What is asked.
            key: The image's key; it decides the home endpoint, the seed and a weighted choice.
            text: The exact text; None fills in the prompt without variables.
            earlier: Attempts of earlier runs; the seeds go on after theirs.
            on_answer: Told the answers of this task, in place of the captioner's own.

        Raises:
            NoEndpointError: No endpoint can be reached any more.
        """
        text = ask(prompt, key, {}) if text is None else text
        seed = seed_of(key) if prompt.sampling.seed is None else prompt.sampling.seed
        question = Question(prompt, text, seed + earlier)
        picture = image if isinstance(image, Picture) else Picture(image)
        told, retries = on_answer or self.on_answer, self.options.retries
        task = Task(self.fleet, picture, key, question, retries=retries, told=told)
        outcome = await task.run()
        if self.on_outcome is not None:
            self.on_outcome(outcome)
        return outcome

    def _entry(self) -> Entry:
        options = self.options
        connections = options.fleet.concurrency or CONNECTIONS
        return Entry(options.model, options.api_key, options.check, connections)

    async def _wire_to(self, endpoints: list[Endpoint]) -> Wire:
        form, why = form_for(await find_places(endpoints), others=bool(self.options.endpoints))
        if not all(endpoint.loopback for endpoint in endpoints):
            self.notices.append(why)
        return form

    async def _usable(
        self, listing: Listing | None, entry: Entry
    ) -> tuple[list[Endpoint], list[Proof]]:
        named = () if listing is None else await listing.look()
        urls = tuple(dict.fromkeys((*self._urls, *named)))
        problem = "" if listing is None else listing.problem
        if not urls:
            raise NoEndpointError(f"{problem}, so there is no server to ask")
        endpoints, left_out = await usable(urls, entry)
        self.notices += [*filter(None, [problem]), *notes_on(endpoints, left_out)]
        return endpoints, left_out


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
