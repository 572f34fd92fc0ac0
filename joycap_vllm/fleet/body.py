"""The bytes of a request; the image's part is spliced in, no encoder sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_MARK = "@image@"
_QUOTED_MARK = f'"{_MARK}"'.encode()


def request_body(
    *,
    model: str,
    system: str,
    text: str,
    data_url: bytes,
    sampling: Mapping[str, Any],
) -> bytes:
    """A chat completion request: system message first, then the image, then the text.

    Args:
        model: The model's name by the server.
        system: System prompt; empty sends none.
        text: What is asked.
        data_url: The image as a `data:` URL; plain ASCII without quotes.
        sampling: All other fields, such as `temperature`.
    """
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": system})
    head = orjson.dumps({"model": model, "messages": messages})[:-2]
    image = orjson.dumps({"type": "image_url", "image_url": {"url": _MARK}})
    before, after = image.split(_QUOTED_MARK)
    question = orjson.dumps({"type": "text", "text": text})
    options = orjson.dumps({"stream": False, **sampling})[1:]
    return b"".join(
        (
            head,
            b"," if messages else b"",
            b'{"role":"user","content":[',
            before,
            b'"',
            data_url,
            b'"',
            after,
            b",",
            question,
            b"]}],",
            options,
        )
    )
