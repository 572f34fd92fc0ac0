"""Conversations, which go to a server as they are and come back as they are, without a judge."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import httpx2
import orjson
import pybase64
from starlette.types import Send

from joycap_vllm.errors import TransportError
from joycap_vllm.fleet import Endpoint, Fleet
from joycap_vllm.gateway.reply import Refusal, Whole
from joycap_vllm.gateway.request import Chat
from joycap_vllm.images import Prepared

# What of the server's headers means something to the caller.
_HEADERS = ("content-type", "retry-after", "x-request-id")
_UNJUDGED = {"x-joycap-judged": "no"}


def with_picture(chat: Chat, picture: Prepared) -> Chat:
    """The conversation with this picture in place of its own."""
    data = pybase64.b64encode(picture.data).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:{picture.mime};base64,{data}"}}

    def replaced(message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        own = [isinstance(p, dict) and p.get("type") == "image_url" for p in content]
        return {
            **message,
            "content": [part if mine else p for mine, p in zip(own, content, strict=True)],
        }

    messages = [replaced(message) for message in chat.body["messages"]]
    return Chat({**chat.body, "messages": messages}, None, chat.stream)


async def pass_whole(fleet: Fleet, chat: Chat) -> Whole:
    """The server's whole answer, whatever its status.

    Raises:
        TransportError: No whole answer came.
        NoEndpointError: No endpoint can be reached.
    """
    async with fleet.relay(_home(chat), _maker(chat)) as (endpoint, response):
        body, headers = endpoint.hidden(await response.aread()), _headers(response)
        if response.status_code == 200 and not _is_object(body):
            broken = "the server's answer is no chat completion"
            return Whole.of(Refusal(502, broken, "server_error", "upstream"))
        return Whole(response.status_code, body, headers, headers.pop("content-type"))


async def pass_stream(fleet: Fleet, chat: Chat, send: Send) -> None:
    """Sends the server's answer on piece by piece, as it comes.

    Raises:
        TransportError: No answer began.
        NoEndpointError: No endpoint can be reached.
    """
    begun = False
    try:
        async with fleet.relay(_home(chat), _maker(chat)) as (endpoint, response):
            headers = [(k.encode(), v.encode("latin-1")) for k, v in _headers(response).items()]
            start = {"type": "http.response.start", "status": response.status_code}
            await send({**start, "headers": headers})
            begun = True
            async for piece in response.aiter_bytes():
                await send(_body(endpoint.hidden(piece), more=True))
    except TransportError as error:
        if not begun:
            raise
        broken = Refusal(502, f"the server's answer broke off: {error}", "server_error")
        await send(_body(b"data: " + broken.body + b"\n\n", more=True))
    await send(_body(b"", more=False))


def _body(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _maker(chat: Chat) -> Callable[[Endpoint], bytes]:
    return lambda endpoint: orjson.dumps({**chat.body, "model": endpoint.abilities.model})


def _home(chat: Chat) -> str:
    """The same for all turns of a conversation, whose beginning the server may have in its cache;
    of messages that are long, as pictures are, the first letters will do."""
    first = [_beginning(message.get("content")) for message in chat.body["messages"][:2]]
    return "chat-" + blake2b(repr(first).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


def _beginning(content: object) -> list[str]:
    parts = content[:4] if isinstance(content, list) else [content]
    whole = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text[:1000] for text in whole if isinstance(text, str)]


def _headers(response: httpx2.Response) -> dict[str, str]:
    found = {name: response.headers[name] for name in _HEADERS if name in response.headers}
    kept = {k: v.encode("latin-1", "replace").decode("latin-1") for k, v in found.items()}
    return {"content-type": "application/json", **kept, **_UNJUDGED}
