"""Answers that are shown while they come: OpenAI's streams, read to one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import orjson

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet.answer import Answer, Usage, usage_of
from joycap_vllm.fleet.hiding import quoted

OnText = Callable[[str], None]  # told the text so far, each time that more of it has come


async def read_live(
    pieces: AsyncIterator[bytes], on_text: OnText, *, key: str | None = None
) -> Answer:
    """Reads the body of a streamed chat completion.

    Args:
        pieces: The body as it comes, cut anywhere.
        on_text: Told the text so far.
        key: The API key, which no error tells.

    Raises:
        TransportError: It ends before the answer does, tells of an error, or is no stream.
    """
    answer, rest = Answer("", "", "", Usage()), b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            before, answer = answer.text, _with_line(answer, line.strip(), key)
            if answer.text != before:
                on_text(answer.text)
    answer = _with_line(answer, rest.strip(), key)
    if not answer.finish:
        raise TransportError("the answer broke off")
    return answer


def _with_line(answer: Answer, line: bytes, key: str | None) -> Answer:
    kind, _, data = line.partition(b":")
    data = data.strip()
    if kind != b"data" or data == b"[DONE]":
        return answer
    try:
        chunk: dict[str, Any] = orjson.loads(data)
        if (error := chunk.get("error")) is not None:
            words = error.get("message") if isinstance(error, dict) else error
            raise TransportError(f"the server ended its answer: {quoted(str(words), key)}")
        usage = chunk.get("usage")
        answer = replace(
            answer,
            model=answer.model or str(chunk.get("model") or ""),
            usage=usage_of(usage) if usage else answer.usage,
        )
        for choice in chunk["choices"][:1]:
            more = (choice.get("delta") or {}).get("content") or ""
            finish = str(choice.get("finish_reason") or "")
            answer = replace(answer, text=answer.text + more, finish=finish or answer.finish)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        shown = quoted(data.decode("utf-8", "replace"), key)[:80]
        raise TransportError(f"the answer is no chat completion: {shown!r}") from error
    return answer
