"""The bytes of a request; the image's part is spliced in, no encoder sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pybase64

from joycap_vllm.fleet.live import OnText

_MARK = "@image@"
_QUOTED_MARK = f'"{_MARK}"'.encode()
# Bytes of a picture that are encoded at once, a multiple of 3. Such a piece is sent in one call,
# and is small enough for the memory of the one before it to be used again.
PIECE = 72 << 10
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class Held(Protocol):
    """A picture that may be let go between two requests."""

    @property
    def size(self) -> int:
        """Its bytes."""

    async def data(self) -> bytes:
        """The picture itself."""

    def sent(self) -> None:
        """A request with it has gone out whole."""


@dataclass(frozen=True, slots=True)
class Body:
    """A whole request, of which only the picture's own bytes take memory: its base64 is made piece
    by piece while it is sent, as often as it is sent. `len` is that of the whole.

    Args:
        head: What stands before the base64.
        picture: The image as it is sent.
        tail: What stands after it.
        on_text: Told the answer's text as it comes, where it is to be streamed.
    """

    head: bytes
    picture: bytes | Held
    tail: bytes
    on_text: OnText | None = None

    def __len__(self) -> int:
        picture = self.picture
        size = len(picture) if isinstance(picture, bytes) else picture.size
        return len(self.head) + (size + 2) // 3 * 4 + len(self.tail)

    async def data(self) -> bytes:
        """The picture.

        Raises:
            ImageError: It was let go, and cannot be had again.
        """
        return self.picture if isinstance(self.picture, bytes) else await self.picture.data()

    def sent(self) -> None:
        """Tells the picture that a request with it has gone out whole."""
        if not isinstance(self.picture, bytes):
            self.picture.sent()

    def pieces(self, picture: bytes) -> Iterator[bytes]:
        """The whole in order; in one piece where the picture, its `data`, is no more than that."""
        view, last = memoryview(picture), max(len(picture) - 1, 0) // PIECE
        for number in range(last + 1):
            piece = pybase64.b64encode(view[number * PIECE : (number + 1) * PIECE])
            head = self.head if number == 0 else b""
            tail = self.tail if number == last else b""
            yield b"".join((head, piece, tail)) if head or tail else piece


def request_body(
    *,
    model: str,
    system: str,
    text: str,
    picture: bytes | Held,
    mime: str,
    sampling: Mapping[str, Any],
    on_text: OnText | None = None,
) -> Body:
    """A chat completion request: system message first, then the image, then the text.

    Args:
        model: The model's name by the server.
        system: System prompt; empty sends none.
        text: What is asked.
        picture: The image as it is sent.
        mime: What it is, such as `image/jpeg`.
        sampling: All other fields, such as `temperature`.
        on_text: Told the answer's text as it comes; None has it sent whole.
    """
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": system})
    head = orjson.dumps({"model": model, "messages": messages})[:-2]
    image = orjson.dumps({"type": "image_url", "image_url": {"url": _MARK}})
    before, after = image.split(_QUOTED_MARK)
    question = orjson.dumps({"type": "text", "text": text})
    stream = {"stream": False} if on_text is None else _STREAMED
    options = orjson.dumps({**stream, **sampling})[1:]
    comma = b"," if messages else b""
    return Body(
        head=b'%b%b{"role":"user","content":[%b"data:%b;base64,'
        % (head, comma, before, mime.encode()),
        picture=picture,
        tail=b'"%b,%b]}],%b' % (after, question, options),
        on_text=on_text,
    )
