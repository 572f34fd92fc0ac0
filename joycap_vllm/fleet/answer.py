"""What an endpoint answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet.hiding import quoted


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more requests; `cached` are those of the prompt that the cache served."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One chat completion.

    Args:
        text: The message's content, as it came.
        finish: `finish_reason`: `stop`, `length`, `repetition`, ...; empty if not given.
        model: The model's name by the server.
        usage: Tokens.
        prompt_token_ids: Ids of the whole prompt, where they were asked for and given.
    """

    text: str
    finish: str
    model: str
    usage: Usage
    prompt_token_ids: tuple[int, ...] | None = None


def read_answer(content: bytes, *, key: str | None = None) -> Answer:
    """Reads the body of a chat completion.

    Args:
        content: The body.
        key: The API key, which no error tells.

    Raises:
        TransportError: The body is none: cut off, not JSON, or of another shape.
    """
    try:
        data: dict[str, Any] = orjson.loads(content)
        choice = data["choices"][0]
        text = _text_of(choice["message"].get("content"))
        ids = data.get("prompt_token_ids")
        return Answer(
            text=text,
            finish=str(choice.get("finish_reason") or ""),
            model=str(data.get("model") or ""),
            usage=usage_of(data.get("usage") or {}),
            prompt_token_ids=tuple(ids) if ids else None,
        )
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = quoted(content.decode("utf-8", "replace"), key)[:80]
        raise TransportError(f"the answer is no chat completion: {shown!r}") from error


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content of type {type(content).__name__}")
    return content or ""


def usage_of(data: dict[str, Any]) -> Usage:
    """The tokens that a server tells."""
    details = data.get("prompt_tokens_details") or {}
    return Usage(
        prompt=_count(data.get("prompt_tokens")),
        cached=_count(details.get("cached_tokens")),
        completion=_count(data.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
