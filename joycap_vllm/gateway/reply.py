"""What a tool is answered: OpenAI's shapes, with what JoyCaption's judge saw beside them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from joycap_vllm.captioner import Outcome
from joycap_vllm.errors import ImageError, JoycapError, NoEndpointError

_RETRY_AFTER = 10  # seconds that a tool is told to wait for a fleet that is down


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than a caption, in OpenAI's words.

    Args:
        status: HTTP status.
        message: For a user.
        kind: OpenAI's error type.
        code: What a program may look at.
        param: The field that is wrong.
        headers: Further headers.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


class RefusedError(Exception):
    """Ends a request with an error; never leaves the gateway."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, message, code=code, param=param)


def refused(refusal: Refusal) -> Response:
    """A refusal as it is sent."""
    headers = dict(refusal.headers)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = refusal.body
    return Response(body, refusal.status, media_type="application/json", headers=headers)


def refusal_of(error: JoycapError) -> Refusal:
    """What a tool is told when an error ends its request."""
    if isinstance(error, ImageError):
        return Refusal(400, str(error), code="invalid_image")
    if isinstance(error, NoEndpointError):
        wait = (("Retry-After", str(_RETRY_AFTER)),)
        return Refusal(503, str(error), "server_error", "no_endpoint", headers=wait)
    return Refusal(400, str(error))


def refusal_for(outcome: Outcome) -> Refusal | None:
    """What a tool is told when a task ended without a caption; None where it has one.

    A glitched caption is not handed out. The attempts are used up, so openai's clients, which
    send a 502 again by themselves, are told not to.
    """
    if outcome.outcome == "ok" and outcome.caption is not None:
        return None
    headers = (*trace_headers(outcome).items(), ("X-Should-Retry", "false"))
    if outcome.outcome == "failed":
        return Refusal(400, outcome.why, code="rejected", headers=headers)
    message = (
        f"no caption after {len(outcome.attempts)} attempts; the best answer still had the glitch "
        f"{outcome.glitch}: {outcome.why}"
    )
    return Refusal(502, message, "glitch", outcome.glitch, headers=headers)


def trace_headers(outcome: Outcome) -> dict[str, str]:
    """How many requests it took, and the kinds of the answers that were rejected."""
    return {
        "X-Joycap-Attempts": str(len(outcome.attempts)),
        "X-Joycap-Glitches": ",".join(_glitches(outcome)),
    }


def completion(model: str, outcome: Outcome) -> bytes:
    """The body of a `chat.completion`."""
    message = {"role": "assistant", "content": outcome.caption, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": _finish(outcome), "logprobs": None}
    return orjson.dumps(
        {
            **_head(model, "chat.completion"),
            "choices": [choice],
            "usage": _usage(outcome),
            "joycap": _trace(outcome),
        }
    )


def events(model: str, outcome: Outcome, *, with_usage: bool) -> Iterator[bytes]:
    """The same as server-sent events: the judged caption in one piece, the end, `[DONE]`."""
    head = _head(model, "chat.completion.chunk")
    delta = {"role": "assistant", "content": outcome.caption}
    yield _event({**head, "choices": [_delta(delta, None)], "joycap": _trace(outcome)})
    yield _event({**head, "choices": [_delta({}, _finish(outcome))]})
    if with_usage:
        yield _event({**head, "choices": [], "usage": _usage(outcome)})
    yield b"data: [DONE]\n\n"


def models(names: list[str]) -> bytes:
    """The body of a list of models."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "joycap"} for name in names]
    return orjson.dumps({"object": "list", "data": rows})


def _head(model: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _delta(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _finish(outcome: Outcome) -> str:
    """One of OpenAI's words: its clients check them, and servers have some of their own.

    Cut short is cut short for a tool, whoever did it, so vLLM's `repetition` becomes `length`.
    """
    if outcome.finish in ("repetition", "length"):
        return "length"
    return "content_filter" if outcome.finish == "content_filter" else "stop"


def _usage(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _trace(outcome: Outcome) -> dict[str, Any]:
    return {
        "outcome": outcome.outcome,
        "attempts": len(outcome.attempts),
        "glitches": _glitches(outcome),
    }


def _glitches(outcome: Outcome) -> list[str]:
    return [attempt.glitch for attempt in outcome.attempts if attempt.glitch is not None]
