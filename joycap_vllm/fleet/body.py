"""The bytes of a request; the image's part is spliced in, no encoder sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pybase64

_MARK = "@image@"
_QUOTED_MARK = f'"{_MARK}"'.encode()


def request_body(
    *,
    model: str,
    system: str,
    text: str,
    picture: bytes,
    mime: str,
    sampling: Mapping[str, Any],
) -> bytes:
    """A chat completion request: system message first, then the image, then the text.

    Args:
        model: The model's name by the server.
        system: System prompt; empty sends none.
        text: What is asked.
        picture: The image as it is sent.
        mime: What it is, such as `image/jpeg`.
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
            b'"data:',
            mime.encode(),
            b";base64,",
            pybase64.b64encode(picture),
            b'"',
            after,
            b",",
            question,
            b"]}],",
            options,
        )
    )
