"""What went wrong at an endpoint, as errors by what can be done about it."""

from __future__ import annotations

import os

import aiohttp
import httpx2

from joycap_vllm.errors import (
    FullError,
    RejectedError,
    RequestError,
    TransportError,
    UnreachableError,
)
from joycap_vllm.fleet.hiding import quoted


def sorted_status(response: httpx2.Response, *, key: str | None = None) -> RequestError:
    """The error of an HTTP status, by what can be done about it; it does not tell the API key."""
    status, words = response.status_code, message_of(response, key)
    if status in (429, 503):
        return FullError(words, _seconds(response.headers.get("retry-after")))
    # 403 and 404 may be about one request or about all: whether others are answered will tell.
    if status == 501 or (400 <= status < 500 and status not in (403, 404, 408, 409, 425)):
        return RejectedError(words, status)
    return TransportError(words)


def message_of(response: httpx2.Response, key: str | None = None) -> str:
    """The server's words: OpenAI's error object, a bare string, or what else it sent; without the
    API key."""
    try:
        error = response.json()
        error = error.get("error", error.get("detail", error))
        words = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        words = response.text
    told = quoted(str(words or "no reason given"), key)
    return f"HTTP {response.status_code}: {told[:500]}"


def sorted_connection(error: Exception, key: str | None) -> TransportError:
    """The error of a connection that could not be made, or broke."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, aiohttp.ClientConnectorError):
        cause = cause.__cause__
    if isinstance(cause, aiohttp.ClientConnectorError):
        return UnreachableError(f"cannot connect: {_why_not(cause)}")
    return TransportError(f"the connection broke: {quoted(str(cause), key)}")


def _why_not(error: aiohttp.ClientConnectorError) -> str:
    """The system's own words, where aiohttp has them wrapped in its own."""
    cause = getattr(error, "os_error", None)  # a certificate that is not trusted has none
    if not isinstance(cause, OSError) or cause.errno is None:
        return str(error)
    return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or str(error)


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
