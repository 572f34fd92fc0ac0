"""What a tool asks for: the body of a chat completion, read into a picture and a prompt.

A picture in the last turn is captioned with that turn's text, whatever was said before: JoyCaption
was trained on single questions about one picture. Later questions about it, and chats without a
picture, are conversations, which are passed through.
"""

from __future__ import annotations

import binascii
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import pybase64
from pydantic import BaseModel, Field, ValidationError

from joycap_vllm.errors import ImageError
from joycap_vllm.gateway.bounds import (
    MOST_CHOICES,
    MOST_MESSAGES,
    MOST_PARTS,
    require_short_talk,
)
from joycap_vllm.gateway.prompting import MODEL, Options, model_names, prompt_for, read_model
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import Prompt, Sampling

__all__ = ["MODEL", "Asked", "Chat", "decode_image", "model_names", "prompt_for", "read_request"]

_Count = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # as servers take; tools write -1
_LARGEST_SEED = 2**62  # retries count upwards from it, and servers take 64 bits
_ANSWERS = ("assistant", "tool", "function")
# Others name addresses that the server would fetch, or hold what JoyCaption cannot see.
_PARTS = frozenset({"text", "image_url", "refusal"})


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    type: str
    text: str | None = None
    image_url: _ImageUrl | str | None = None

    @property
    def picture(self) -> str | None:
        if self.type != "image_url" or self.image_url is None:
            return None
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


_Parts = Annotated[list[_Part | str], Field(fail_fast=True, max_length=MOST_PARTS)]


class _Message(BaseModel):
    role: str
    content: str | _Parts | None = None

    @property
    def parts(self) -> list[_Part]:
        content = [self.content or ""] if not isinstance(self.content, list) else self.content
        return [_Part(type="text", text=p) if isinstance(p, str) else p for p in content]

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts if part.type == "text" and part.text)

    @property
    def pictures(self) -> list[str]:
        return [part.picture for part in self.parts if part.picture is not None]


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class _Body(BaseModel):
    """The fields of the API that mean something here; all others are let through unread."""

    messages: Annotated[list[_Message], Field(fail_fast=True, max_length=MOST_MESSAGES)]
    model: str = MODEL
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: _Count | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    seed: Annotated[int, Field(lt=_LARGEST_SEED)] | None = None
    caption_type: str | None = None
    caption_length: str | int | None = None
    word_count: Annotated[int, Field(ge=1, le=9999)] | None = None
    extra_options: str | int | Annotated[list[str | int], Field(fail_fast=True)] | None = None
    name: str | None = None
    system_prompt: str | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    audio: Any = None
    modalities: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for captions.

    Args:
        model: The name that the tool asked for.
        prompt: What is asked of the picture.
        image: The picture as a `data:` or an http(s) URL.
        n: Captions wanted.
        stream: Whether the answer goes out as server-sent events.
        stream_usage: Whether such a stream ends with the tokens used.
    """

    model: str
    prompt: Prompt
    image: str
    n: int = 1
    stream: bool = False
    stream_usage: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that is passed through.

    Args:
        body: The request, as it came.
        image: The URL of the one picture in it, where there is one.
        stream: Whether the answer is streamed.
    """

    body: dict[str, Any]
    image: str | None = None
    stream: bool = False


def read_request(body: bytes, served: Collection[str] = ()) -> Asked | Chat:
    """Reads a chat completion request.

    Args:
        body: The JSON.
        served: Names of the models that the fleet serves.

    Raises:
        RefusedError: It is none, or asks for what the gateway does not do.
        UsageError: It asks for a caption type, length or extra option that the table lacks.
    """
    try:
        data = _Body.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(400, _in_words(error)) from None
    named, suffix = read_model(data.model, served)
    require_short_talk([m.text for m in data.messages])
    for message in data.messages:
        if strange := {part.type for part in message.parts} - _PARTS:
            raise RefusedError(400, f"parts of type {min(strange)!r} are not supported")
    if data.n is not None and not 1 <= data.n <= MOST_CHOICES:
        raise RefusedError(400, f"n must be 1 to {MOST_CHOICES}", param="n")
    options = _options(data)
    image = _asked_about(data.messages, by_table=bool(named or suffix or options.choose))
    if image is None:
        return _chat(body, data, options)
    _require_captions(data)
    system = "\n".join(m.text for m in data.messages if m.role in ("system", "developer"))
    said = [message.text for message in _last_turn(data.messages) if message.role == "user"]
    texts = [text for text in said if text.strip()]
    text = texts[-1] if texts else ""
    return Asked(
        model=data.model,
        prompt=prompt_for(data.model, text, system, _sampling(data), options, served),
        image=image,
        n=1 if data.n is None else data.n,
        stream=bool(data.stream),
        stream_usage=data.stream_options is not None and bool(data.stream_options.include_usage),
    )


def decode_image(data_url: str) -> bytes:
    """The bytes in a `data:` URL.

    Raises:
        ImageError: It is no base64.
    """
    try:
        return pybase64.b64decode(data_url[data_url.index(",") + 1 :].strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the image is no valid base64: {error}") from error


def _last_turn(messages: Sequence[_Message]) -> list[_Message]:
    """What was said since the last answer; tools part a picture and its text at times."""
    last = max((i for i, m in enumerate(messages) if m.role in _ANSWERS), default=-1)
    return list(messages[last + 1 :])


def _asked_about(messages: Sequence[_Message], *, by_table: bool) -> str | None:
    """The picture to caption; None where the request is a conversation."""
    now = [url for message in _last_turn(messages) for url in message.pictures]
    whole = [url for message in messages for url in message.pictures]
    if len(now) == 1:
        return now[0]
    if not now and by_table and whole:
        return whole[-1]  # a caption type knows nothing but pictures
    if len(now or whole) > 1:
        raise RefusedError(
            400,
            f"JoyCaption describes one picture, and this request holds {len(now or whole)}: send "
            "one as an image_url part, and each picture in a request of its own",
        )
    return None


def _chat(body: bytes, data: _Body, options: Options) -> Chat:
    if options.choose or not any(m.text.strip() or m.pictures for m in data.messages):
        raise RefusedError(
            400, "this request holds no picture: send one as an image_url part", param="messages"
        )
    try:
        plain = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the request is no valid JSON: {error}") from None
    pictures = [url for message in data.messages for url in message.pictures]
    return Chat(plain, pictures[0] if pictures else None, bool(data.stream))


def _require_captions(data: _Body) -> None:
    """Refuses what a caption cannot give, where the caller would count on it; tools that may be
    called and the like are passed over.

    Raises:
        RefusedError: It wants something other than text.
    """
    form = data.response_format
    kind = form.get("type") if isinstance(form, dict) else form
    calls = [c for c in (data.tool_choice, data.function_call) if c not in (None, "none", "auto")]
    wants = (
        ("tool_choice", bool(calls), "no tool can be required"),
        ("response_format", kind not in (None, "text"), "the answer is plain text"),
        ("logprobs", bool(data.logprobs or data.top_logprobs), "captions come without logprobs"),
        ("modalities", "audio" in (data.modalities or ()) or bool(data.audio), "it is text only"),
    )
    for param, wanted, why in wants:
        if wanted:
            raise RefusedError(400, f"{param}: {why} where a picture is captioned", param=param)


def _options(data: _Body) -> Options:
    extras = data.extra_options
    listed = extras if isinstance(extras, list) else [extras]
    return Options(
        type=data.caption_type or None,
        length=None if data.caption_length is None else str(data.caption_length) or None,
        words=data.word_count,
        extras=tuple(str(extra) for extra in listed if extra not in (None, "")),
        name=data.name or "",
        system=data.system_prompt,
    )


def _sampling(data: _Body) -> Sampling:
    usual = Sampling()
    most = data.max_completion_tokens or data.max_tokens or 0
    # Without a seed a tool's "again" button must not bring the same caption; tools also write -1.
    drawn = data.seed is None or data.seed < 0
    return Sampling(
        temperature=usual.temperature if data.temperature is None else data.temperature,
        top_p=usual.top_p if data.top_p is None else data.top_p,
        top_k=max(data.top_k or usual.top_k, 0),
        max_tokens=most if most > 0 else usual.max_tokens,
        seed=random.getrandbits(31) if drawn else data.seed,
    )


def _in_words(error: ValidationError) -> str:
    """The fault that lies deepest: where a field may be of several kinds, each of them complains,
    and the one that the caller meant came furthest."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    deepest = max(found, key=lambda fault: len(fault["loc"]))
    where = ".".join(str(step) for step in deepest["loc"] if not _is_kind(step))
    return f"{where}: {deepest['msg']}" if where else deepest["msg"]


def _is_kind(step: int | str) -> bool:
    """Whether a step of a place is a kind that pydantic tried, and nothing that was sent."""
    return isinstance(step, str) and (step in ("str", "int") or step.startswith(("_", "list[")))
