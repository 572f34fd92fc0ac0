"""Images behind http(s) URLs: bounded in size, time and redirects, and never from inside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from joycap_vllm.errors import ImageError
from joycap_vllm.sources.image import MOST_BYTES, refuse_long

if TYPE_CHECKING:
    import httpcore2
    import httpx2
    from tenacity import RetryCallState

_TRIES = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class WebRules:
    """What may be fetched.

    Args:
        most: Most bytes of an image.
        seconds: Most seconds for an image, with all redirects and attempts; a third of it is the
            longest silence of a server.
        redirects: Most redirects of one request.
        private: Whether loopback, private, link-local and other addresses that are not public may
            be asked.
    """

    most: int = MOST_BYTES
    seconds: float = 30.0
    redirects: int = 5
    private: bool = False


class WebPlace(NamedTuple):
    """An http(s) URL."""

    url: str
    rules: WebRules

    @property
    def path(self) -> None:
        """It is no file of this machine."""

    def size(self) -> None:
        """Not told without asking the server."""

    def read(self, most: int) -> bytes:
        """Fetches it, up to three times where the fault may pass.

        Raises:
            ImageError: It cannot be had within the rules.
        """
        from tenacity import Retrying, retry_if_exception_type

        most, ends = min(most, self.rules.most), time.monotonic() + self.rules.seconds

        def over(state: RetryCallState) -> bool:
            return state.attempt_number >= _TRIES or time.monotonic() + 0.5 > ends

        again = Retrying(
            retry=retry_if_exception_type(_PassingError),
            stop=over,
            wait=lambda state: 0.2 * state.attempt_number,
            reraise=True,
        )
        return again(_fetched, self.url, self.rules, most, ends)


class _PassingError(ImageError):
    """A fault that may have passed at the next attempt."""


def _fetched(url: str, rules: WebRules, most: int, ends: float) -> bytes:
    parts, size = [], 0
    with answered(url, rules, ends) as response:
        said = header(response, b"content-length")
        if said.isdigit():
            refuse_long(int(said), most)
        for part in chunks(response):
            size += len(part)
            refuse_long(size, most)
            parts.append(part)
    return b"".join(parts)


def chunks(response: httpcore2.Response) -> Iterator[bytes]:
    """The body of a response.

    Raises:
        ImageError: The connection fails.
    """
    with _in_words():
        yield from response.iter_stream()


@contextmanager
def answered(
    url: str, rules: WebRules, ends: float | None, part: tuple[int, int] | None = None
) -> Iterator[httpcore2.Response]:
    """The response at the end of all redirects, its body unread.

    Args:
        url: What is asked for.
        rules: What may be asked.
        ends: When it has to be read to its end, a time of `time.monotonic`.
        part: The first and the last byte wanted, where it is not all.

    Raises:
        ImageError: The rules forbid it, or the server fails or refuses.
    """
    import httpx2

    from joycap_vllm.sources.guard import deadline

    try:
        target = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ImageError(f"its URL can be none: {error}") from None
    first = target.netloc
    with ExitStack() as stack:
        if ends is not None:
            stack.enter_context(deadline(ends))
        for _ in range(rules.redirects + 1):
            login = _login(target) if target.netloc == first else None
            response = stack.enter_context(_asked(target, rules, login, part))
            if response.status not in _REDIRECTS:
                _require_ok(response, (200,) if part is None else (200, 206))
                yield response
                return
            goal = header(response, b"location")
            if not goal:
                raise ImageError("the server redirects to nowhere")
            response.close()
            try:
                target = target.join(goal.decode("utf-8", "replace"))
            except (httpx2.InvalidURL, ValueError):
                raise ImageError("the server redirects to what is no URL") from None
    raise ImageError(f"the server redirects more than {rules.redirects} times")


def _login(target: httpx2.URL) -> bytes | None:
    """The login that a URL carries, as the header wants it."""
    import pybase64

    if not target.userinfo:
        return None
    return b"Basic " + pybase64.b64encode(f"{target.username}:{target.password}".encode())


@contextmanager
def _asked(
    target: httpx2.URL, rules: WebRules, login: bytes | None, part: tuple[int, int] | None
) -> Iterator[httpcore2.Response]:
    import httpcore2

    from joycap_vllm.sources.guard import pool

    if target.scheme not in ("http", "https") or not target.host:
        raise ImageError(f"a {target.scheme}: URL is no image that can be fetched")
    headers = [
        (b"Host", target.netloc),
        (b"User-Agent", b"joycap-vllm"),
        (b"Accept", b"image/*, */*;q=0.5"),
        (b"Accept-Encoding", b"identity"),  # nothing that could unpack without a bound
    ]
    if login:
        headers.append((b"Authorization", login))
    if part:
        headers.append((b"Range", b"bytes=%d-%d" % part))
    url = httpcore2.URL(
        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
    )
    silence = rules.seconds / 3
    limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), silence)}
    with ExitStack() as stack:
        with _in_words():
            response = stack.enter_context(
                pool(rules.private).stream("GET", url, headers=headers, extensions=limits)
            )
        yield response


def _require_ok(response: httpcore2.Response, expected: tuple[int, ...]) -> None:
    if response.status in _PASSING:
        raise _PassingError(f"the server answers {response.status}")
    if response.status not in expected:
        raise ImageError(f"the server answers {response.status}")
    packed = header(response, b"content-encoding")
    if packed and packed.lower() != b"identity":
        raise ImageError(f"the server sends it packed as {packed.decode('ascii', 'replace')}")


def header(response: httpcore2.Response, name: bytes) -> bytes:
    """A header by its name in small letters; empty where it is not there."""
    return next((value for key, value in response.headers if key.lower() == name), b"")


@contextmanager
def _in_words() -> Iterator[None]:
    """Turns faults of the connection into words."""
    import httpcore2

    from joycap_vllm.sources.guard import OverdueError, RefusedError

    try:
        yield
    except (OverdueError, RefusedError) as error:
        raise ImageError(str(error)) from None
    except httpcore2.TimeoutException:
        raise _PassingError("the server is silent for too long") from None
    except httpcore2.ConnectError as error:
        raise _PassingError(f"no connection to the server: {error}") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise _PassingError(f"the connection broke: {error}") from None
