"""The engine: an image and a prompt in, a judged outcome out.

It joins three rooms: images are prepared, the fleet is asked, answers are judged, and glitches
are asked again until a caption comes or the attempts are used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar, cast, overload
from weakref import WeakSet

from joycap_vllm.errors import ImageError, NoCaptionError, NoEndpointError, UsageError
from joycap_vllm.fleet import (
    CONNECTIONS,
    Endpoint,
    Entry,
    Fleet,
    FleetOptions,
    Listing,
    OnText,
    Proof,
    Roll,
    find_places,
    form_for,
    listing_of,
    normal_url,
    notes_on,
    usable,
)
from joycap_vllm.given import ImageLike, Pictures
from joycap_vllm.glitch import Question
from joycap_vllm.images import ImagePool, Limits, Picture, Prepared, Recipe, Wire
from joycap_vllm.many import Captioned, Stream
from joycap_vllm.prompts import Prompt, ask, build_prompts
from joycap_vllm.task import Attempt, OnAnswer, Outcome, OutcomeKind, Task, seed_of

__all__ = [
    "DEFAULT_URL",
    "Attempt",
    "Captioned",
    "Captioner",
    "CaptionerOptions",
    "ImageLike",
    "OnAnswer",
    "Outcome",
    "OutcomeKind",
    "seed_of",
]

DEFAULT_URL = "http://127.0.0.1:8000/v1"
T = TypeVar("T")
P = TypeVar("P", bound=ImageLike)
_NOT_OPEN = "use the captioner as an async context manager: async with ..."


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
        private_urls: Whether pictures given by URL may come from addresses inside your network.
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
    private_urls: bool = False

    def __post_init__(self) -> None:
        if self.endpoints:
            listing_of(self.endpoints)


class Captioner:
    """Captions images through a fleet of endpoints; use it as an async context manager.

    ```python
    import asyncio
    from joycap_vllm import Captioner

    async def main():
        async with Captioner("http://gpu:8000/v1") as joy:
            print(await joy.caption("dog.jpg", "straightforward"))

    asyncio.run(main())
    ```

    `SyncCaptioner` is the same for programs without `async`.

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
        self._pictures: Pictures | None = None
        self._streams: WeakSet[Stream[Any, Any]] = WeakSet()

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
        self._pictures = Pictures(self._pool, options.limits, private=options.private_urls)
        self._fleet = Fleet(endpoints, self.options.fleet)
        await self._fleet.__aenter__()
        if listing is not None or left_out:
            roll = Roll(self._fleet, listing, entry, always=self._urls, left_out=left_out)
            self._following = asyncio.create_task(roll.follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(stream.close() for stream in tuple(self._streams)))
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._fleet is not None:
            await self._fleet.__aexit__()
        if self._pool is not None:
            self._pool.close()
        if self._pictures is not None:
            self._pictures.close()

    @property
    def fleet(self) -> Fleet:
        """The fleet, while the captioner is open."""
        if self._fleet is None:
            raise RuntimeError(_NOT_OPEN)
        return self._fleet

    @property
    def pool(self) -> ImagePool:
        """The pool that prepares pictures, while the captioner is open."""
        if self._pool is None:
            raise RuntimeError(_NOT_OPEN)
        return self._pool

    @property
    def pictures(self) -> Pictures:
        """Reads what callers give as images, while the captioner is open."""
        if self._pictures is None:
            raise RuntimeError(_NOT_OPEN)
        return self._pictures

    async def caption(self, image: ImageLike, prompt: str | Prompt = "descriptive") -> str:
        """The caption of one image.

        Args:
            image: A path, an http(s) URL, the bytes of a picture file, or a PIL image.
            prompt: A caption type by name, or a prompt.

        Raises:
            ImageError: The picture cannot be used.
            NoCaptionError: All attempts were glitches, or the server refused the request.
            NoEndpointError: No endpoint can be reached any more.
            UsageError: No caption type has that name.
        """
        (asked,) = build_prompts(prompt)
        picture = await self.pictures.of(image, sends=1)
        outcome = await self.outcome(picture, asked, key=picture.facts.sha256)
        if outcome.outcome != "ok" or outcome.caption is None:
            raise NoCaptionError(f"{outcome.glitch or 'failed'}: {outcome.why}")
        return outcome.caption

    @overload
    def caption_many(
        self,
        inputs: Iterable[P] | AsyncIterable[P],
        prompt: str | Prompt | Sequence[str | Prompt] = ...,
        *,
        in_order: bool = ...,
    ) -> AsyncGenerator[Captioned[P], None]: ...

    @overload
    def caption_many(
        self,
        inputs: Iterable[T] | AsyncIterable[T],
        prompt: str | Prompt | Sequence[str | Prompt] = ...,
        *,
        image: Callable[[T], ImageLike],
        in_order: bool = ...,
    ) -> AsyncGenerator[Captioned[T], None]: ...

    def caption_many(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        prompt: str | Prompt | Sequence[str | Prompt] = "descriptive",
        *,
        image: Callable[[Any], ImageLike] | None = None,
        in_order: bool = False,
    ) -> AsyncGenerator[Captioned[Any], None]:
        """Captions as they come, each with the input that it belongs to.

        ```python
        import asyncio
        from pathlib import Path
        from joycap_vllm import Captioner

        async def main():
            photos = Path("photos").rglob("*.jpg")
            async with Captioner("http://gpu:8000/v1") as joy:
                async for done in joy.caption_many(photos, ["descriptive", "danbooru-tag-list"]):
                    print(done.input, done.prompt, done.caption or done.outcome.why)

        asyncio.run(main())
        ```

        Inputs may be endless: they are read as the servers take them, and only while results are
        taken. A picture that cannot be used, or gets no caption, is an outcome as any other. What
        is in flight ends when the loop is left, at the latest when the captioner is closed;
        `contextlib.aclosing` says when exactly. Memory holds the inputs in flight, so that paths
        are better than pictures where they are large.

        Args:
            inputs: Images, or whatever `image` finds images in; a list, a generator (which is
                read in a thread of its own) or an async one.
            prompt: A caption type or a prompt, or several, all asked about each picture.
            image: Where an input is no image itself, gives its image: `lambda row: row["path"]`.
            in_order: Whether results come in the order of the inputs.

        Raises:
            UsageError: At once: an unknown caption type, or an image in place of many.
            NoEndpointError: No endpoint can be reached any more.
        """
        if isinstance(inputs, str | bytes | PathLike):
            raise UsageError(
                "caption_many takes many images, such as a list or Path('photos').glob('*.jpg'); "
                "caption takes one"
            )
        return self._many(inputs, build_prompts(prompt), image or _itself, in_order)

    def _many(
        self,
        inputs: Iterable[T] | AsyncIterable[T],
        prompts: tuple[Prompt, ...],
        image: Callable[[T], ImageLike],
        in_order: bool,
    ) -> AsyncGenerator[Captioned[T], None]:
        async def work(index: int, item: T) -> list[Captioned[T]]:
            outcomes = await self._outcomes(image(item), prompts)
            named = zip(prompts, outcomes, strict=True)
            return [Captioned(item, index, prompt.name, outcome) for prompt, outcome in named]

        def room() -> float:
            return self.fleet.capacity / len(prompts) + 2 * self.pool.workers

        stream = Stream(inputs, work, room, in_order=in_order)
        self._streams.add(stream)
        return stream.results()

    async def _outcomes(self, image: ImageLike, prompts: tuple[Prompt, ...]) -> list[Outcome]:
        try:
            picture = await self.pictures.of(image, sends=len(prompts))
        except ImageError as error:
            return [Outcome("failed", None, why=str(error))] * len(prompts)
        key = picture.facts.sha256
        if len(prompts) == 1:
            return [await self.outcome(picture, prompts[0], key=key)]
        tasks = [asyncio.create_task(self.outcome(picture, p, key=key)) for p in prompts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def outcome(
        self,
        image: Prepared | Picture,
        prompt: Prompt,
        *,
        key: str,
        text: str | None = None,
        earlier: int = 0,
        on_answer: OnAnswer | None = None,
        on_text: OnText | None = None,
    ) -> Outcome:
        """The judged outcome of one task, after as many attempts as it takes.

        Args:
            image: The prepared picture; as `Picture` it may be let go once it is sent.
            prompt: What is asked.
            key: The image's key; it decides the home endpoint, the seed and a weighted choice.
            text: The exact text; None fills in the prompt without variables.
            earlier: Attempts of earlier runs; the seeds go on after theirs.
            on_answer: Told the answers of this task, in place of the captioner's own.
            on_text: Told the text of each attempt as it comes, before it is judged.

        Raises:
            NoEndpointError: No endpoint can be reached any more.
        """
        text = ask(prompt, key, {}) if text is None else text
        seed = seed_of(key) if prompt.sampling.seed is None else prompt.sampling.seed
        question = Question(prompt, text, seed + earlier)
        picture = image if isinstance(image, Picture) else Picture(image)
        told, retries = on_answer or self.on_answer, self.options.retries
        task = Task(self.fleet, picture, key, question, retries=retries, told=told, on_text=on_text)
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


def _itself(item: Any) -> ImageLike:
    return cast(ImageLike, item)
