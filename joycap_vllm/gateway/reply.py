"""What a tool is answered: OpenAI's shapes, with what JoyCaption's judge saw beside them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from joycap_vllm.captioner import Outcome
from joycap_vllm.errors import (
    FullError,
    ImageError,
    JoycapError,
    NoEndpointError,
    OutputError,
    TransportError,
)
from joycap_vllm.fleet import Usage

# Doors whose clients, those of Ollama and AI-Toolkit, take an error to be a text.
_PLAIN = ("/api/", "/caption", "/batch_caption", "/prompts", "/progress", "/shutdown")
_LONGEST = 2_000  # characters of a message
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

    def __post_init__(self) -> None:
        # Messages repeat what the caller sent, however long that is.
        if len(self.message) > _LONGEST:
            object.__setattr__(self, "message", self.message[:_LONGEST] + "...")

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


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole answer.

    Args:
        status: HTTP status.
        body: Its body.
        headers: Further headers.
        kind: Its Content-Type.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"

    @property
    def response(self) -> Response:
        return Response(self.body, self.status, headers=dict(self.headers), media_type=self.kind)

    @staticmethod
    def of(refusal: Refusal) -> Whole:
        """A refusal as a whole answer."""
        return Whole(refusal.status, refusal.body, dict(refusal.headers))


def refused(refusal: Refusal, path: str = "") -> Response:
    """A refusal as it is sent.

    Args:
        refusal: It.
        path: What was asked, which tells whose clients read it.
    """
    headers = dict(refusal.headers)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    plain = path.startswith(_PLAIN)
    body = orjson.dumps({"error": refusal.message}) if plain else refusal.body
    return Response(body, refusal.status, media_type="application/json", headers=headers)


def refusal_of(error: JoycapError) -> Refusal:
    """What a tool is told when an error ends its request."""
    if isinstance(error, ImageError):
        return Refusal(400, str(error), code="invalid_image")
    if isinstance(error, OutputError):
        return Refusal(507 if error.stops_all else 500, str(error), "server_error")
    if isinstance(error, TransportError):
        return Refusal(502, str(error), "server_error", "upstream")
    if isinstance(error, NoEndpointError | FullError):
        wait = (("Retry-After", str(_RETRY_AFTER)),)
        return Refusal(503, str(error), "server_error", "no_endpoint", headers=wait)
    return Refusal(400, str(error))


def refusal_for(*outcomes: Outcome) -> Refusal | None:
    """What a tool is told when tasks ended without a caption; None where one of them has one.

    A glitched caption is not handed out. The attempts are used up, so openai's clients, which
    send a 502 again by themselves, are told not to.
    """
    if any(_has_caption(outcome) for outcome in outcomes):
        return None
    headers = (*trace_headers(*outcomes).items(), ("X-Should-Retry", "false"))
    outcome = next((one for one in outcomes if one.outcome == "glitched"), outcomes[0])
    if outcome.broken:
        return Refusal(502, outcome.why, "server_error", "upstream", headers=headers)
    if outcome.outcome == "failed":
        return Refusal(400, outcome.why, code="rejected", headers=headers)
    message = (
        f"no caption after {sum(len(one.attempts) for one in outcomes)} attempts; the best answer "
        f"still had the glitch {outcome.glitch}: {outcome.why}"
    )
    return Refusal(502, message, "glitch", outcome.glitch, headers=headers)


def trace_headers(*outcomes: Outcome) -> dict[str, str]:
    """How many requests it took, and the kinds of the answers that were rejected."""
    return {
        "X-Joycap-Attempts": str(sum(len(outcome.attempts) for outcome in outcomes)),
        "X-Joycap-Glitches": ",".join(kind for one in outcomes for kind in _glitches(one)),
    }


def completion(model: str, *outcomes: Outcome) -> bytes:
    """The body of a `chat.completion`; tasks without a caption have no choice in it."""
    choices = []
    for index, outcome in enumerate(filter(_has_caption, outcomes)):
        message = {"role": "assistant", "content": outcome.caption, "refusal": None}
        finish = {"finish_reason": _finish(outcome), "logprobs": None}
        choices.append({"index": index, "message": message, **finish})
    return orjson.dumps(
        {
            **_head(model, "chat.completion"),
            "choices": choices,
            "usage": _usage(outcomes),
            "joycap": _trace(outcomes),
        }
    )


def events(model: str, *outcomes: Outcome, with_usage: bool) -> Iterator[bytes]:
    """The same as server-sent events: each judged caption in one piece, its end, and at last
    `[DONE]`."""
    head = _head(model, "chat.completion.chunk")
    trace: dict[str, Any] = {"joycap": _trace(outcomes)}
    for index, outcome in enumerate(filter(_has_caption, outcomes)):
        delta = {"role": "assistant", "content": outcome.caption}
        yield event({**head, "choices": [_delta(index, delta, None)], **trace})
        yield event({**head, "choices": [_delta(index, {}, _finish(outcome))]})
        trace = {}
    if with_usage:
        yield event({**head, "choices": [], "usage": _usage(outcomes)})
    yield b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def model_row(name: str) -> dict[str, Any]:
    """A model as the API describes it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "joycap"}


def models(names: list[str]) -> bytes:
    """The body of a list of models."""
    return orjson.dumps({"object": "list", "data": [model_row(name) for name in names]})


def _head(model: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _delta(index: int, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


def _has_caption(outcome: Outcome) -> bool:
    return outcome.outcome == "ok" and outcome.caption is not None


def _finish(outcome: Outcome) -> str:
    """One of OpenAI's words: its clients check them, and servers have some of their own.

    Cut short is cut short for a tool, whoever did it, so vLLM's `repetition` becomes `length`.
    """
    if outcome.finish in ("repetition", "length"):
        return "length"
    return "content_filter" if outcome.finish == "content_filter" else "stop"


def _usage(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    usage = sum((outcome.usage for outcome in outcomes), Usage())
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _trace(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    each = [
        {"outcome": one.outcome, "attempts": len(one.attempts), "glitches": _glitches(one)}
        for one in outcomes
    ]
    if len(each) == 1:
        return each[0]
    return {
        "outcome": "ok",
        "attempts": sum(len(one.attempts) for one in outcomes),
        "glitches": [kind for one in outcomes for kind in _glitches(one)],
        "choices": each,
    }


def _glitches(outcome: Outcome) -> list[str]:
    return [attempt.glitch for attempt in outcome.attempts if attempt.glitch is not None]
