"""The captioner for scripts and notebooks: the same calls, without `async`."""

from __future__ import annotations

import atexit
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar, overload

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from joycap_vllm.captioner import Captioner, CaptionerOptions
from joycap_vllm.errors import JoycapError
from joycap_vllm.given import ImageLike
from joycap_vllm.many import Captioned
from joycap_vllm.prompts import Prompt

T = TypeVar("T")
P = TypeVar("P", bound=ImageLike)
R = TypeVar("R")


class SyncCaptioner:
    """A `Captioner` whose calls wait for their results; all its threads may share it.

    ```python
    from joycap_vllm import SyncCaptioner

    with SyncCaptioner("http://gpu:8000/v1") as joy:
        print(joy.caption("dog.jpg", "straightforward"))
    ```

    It runs a `Captioner` on an event loop in a thread of its own, so that it also works where a
    loop runs already, as in notebooks. Without `with` it opens at its first call, and `close` ends
    it. Ctrl-C ends the call that it interrupts.

    Args:
        urls: Base URLs of OpenAI-compatible servers; none is the one of this machine.
        options: How it works.

    Raises:
        UsageError: A base URL is none.
        NoEndpointError: On entering, or at the first call: none can be reached, or none passes its
            check.
    """

    def __init__(self, *urls: str, options: CaptionerOptions | None = None) -> None:
        self._joy = Captioner(*urls, options=options)
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._stack = ExitStack()
        self._calls: set[Future[Any]] = set()

    def __enter__(self) -> SyncCaptioner:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is in flight and closes all connections; a later call opens it anew."""
        atexit.unregister(self.close)
        with self._lock:
            self._portal = None
            for call in tuple(self._calls):
                call.cancel()
            self._stack.close()

    @property
    def notices(self) -> list[str]:
        """What users should know of the servers."""
        return self._joy.notices

    def caption(self, image: ImageLike, prompt: str | Prompt = "descriptive") -> str:
        """The caption of one image, as `Captioner.caption`.

        Raises:
            ImageError, NoCaptionError, NoEndpointError, UsageError: As `Captioner.caption`.
        """
        return self._wait(self._joy.caption, image, prompt)

    @overload
    def caption_many(
        self,
        inputs: Iterable[P] | AsyncIterable[P],
        prompt: str | Prompt | Sequence[str | Prompt] = ...,
        *,
        in_order: bool = ...,
    ) -> Generator[Captioned[P], None, None]: ...

    @overload
    def caption_many(
        self,
        inputs: Iterable[T] | AsyncIterable[T],
        prompt: str | Prompt | Sequence[str | Prompt] = ...,
        *,
        image: Callable[[T], ImageLike],
        in_order: bool = ...,
    ) -> Generator[Captioned[T], None, None]: ...

    def caption_many(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        prompt: str | Prompt | Sequence[str | Prompt] = "descriptive",
        *,
        image: Callable[[Any], ImageLike] | None = None,
        in_order: bool = False,
    ) -> Generator[Captioned[Any], None, None]:
        """Captions as they come, as `Captioner.caption_many`; leaving the loop ends the rest.

        ```python
        from pathlib import Path
        from joycap_vllm import SyncCaptioner

        with SyncCaptioner("http://gpu:8000/v1") as joy:
            for done in joy.caption_many(sorted(Path("photos").glob("*.jpg")), in_order=True):
                print(done.input, done.caption or done.outcome.why)
        ```

        Raises:
            NoEndpointError, UsageError: As `Captioner.caption_many`.
        """
        if image is None:
            return self._each(self._joy.caption_many(inputs, prompt, in_order=in_order))
        return self._each(self._joy.caption_many(inputs, prompt, image=image, in_order=in_order))

    def _each(
        self, stream: AsyncGenerator[Captioned[T], None]
    ) -> Generator[Captioned[T], None, None]:
        turn = anyio.Lock()  # a step that Ctrl-C interrupts is on its way out for a moment

        async def step() -> Captioned[T]:
            async with turn:
                return await anext(stream)

        async def end() -> None:
            async with turn:
                await stream.aclose()

        try:
            while True:
                try:
                    yield self._wait(step)
                except StopAsyncIteration:
                    return
        finally:
            portal = self._portal  # without it, closing has ended the stream
            if portal is not None:
                portal.call(end)

    def _wait(self, call: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        waiting = self._open().start_task_soon(call, *arguments)
        self._calls.add(waiting)
        waiting.add_done_callback(self._calls.discard)
        try:
            return waiting.result()
        except CancelledError:
            raise JoycapError("the captioner was closed while a caption was awaited") from None
        except BaseException:  # Ctrl-C among them
            waiting.cancel()
            raise

    def _open(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal(name="joycap"))
                    stack.enter_context(portal.wrap_async_context_manager(self._joy))
                    self._portal, self._stack = portal, stack.pop_all()
                atexit.register(self.close)  # threads that nobody ends any more would be waited for
            return self._portal
