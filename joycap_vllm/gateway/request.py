"""What a tool asks for: the body of a chat completion, read into a picture and a prompt."""

from __future__ import annotations

import binascii
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import pybase64
from pydantic import BaseModel, Field, ValidationError

from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import Prompt, Sampling, build_prompt, harmless, load_table

MODEL = "joycaption"
_WORDS = re.compile(r"([1-9]\d{0,3})(-words?)?")
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
_LARGEST_SEED = 2**62  # retries count upwards from it, and servers take 64 bits


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    type: str
    text: str = ""
    image_url: _ImageUrl | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    """The fields of the API that mean something here; all others are let through unread."""

    messages: list[_Message]
    model: str = MODEL
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(lt=_LARGEST_SEED)] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Args:
        model: The name that the tool asked for.
        prompt: What is asked of the picture.
        image: The picture as a `data:` URL.
        stream: Whether the answer goes out as server-sent events.
        stream_usage: Whether such a stream ends with the tokens used.
    """

    model: str
    prompt: Prompt
    image: str
    stream: bool = False
    stream_usage: bool = False


def read_request(body: bytes) -> Asked:
    """Reads a chat completion request about one picture.

    Raises:
        RefusedError: It is none, or asks for what the gateway does not do.
        UsageError: The model's name holds a length that the prompt table does not know.
    """
    try:
        data = _Body.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(400, _in_words(error)) from None
    if (data.n or 1) != 1:
        raise RefusedError(400, "n must be 1: each answer is judged by itself", param="n")
    system = "\n".join(_texts(data.messages, "system", "developer"))
    text = "\n".join(_texts(data.messages, "user"))
    return Asked(
        model=data.model,
        prompt=prompt_for(data.model, text, system, _sampling(data)),
        image=_only_image(data.messages),
        stream=bool(data.stream),
        stream_usage=data.stream_options is not None and data.stream_options.include_usage,
    )


def prompt_for(model: str, text: str, system: str, sampling: Sampling) -> Prompt:
    """The prompt that a model's name and a tool's text stand for.

    A caption type's model always asks with the type's own words: a tool that picks it sends some
    text of its own with every picture, which JoyCaption was not trained on.

    Args:
        model: `joycaption`, or `joycaption/<type>`, or one of those with `:<length>` or
            `:<N>-words` behind it.
        text: The user's text; empty asks for the default caption type.
        system: The system prompt; empty is JoyCaption's own.
        sampling: How the answer is drawn.

    Raises:
        RefusedError: No such model.
        UsageError: No such length.
    """
    base, _, option = model.partition(":")
    family, slash, name = base.partition("/")
    if family != MODEL or (slash and not name):
        raise RefusedError(
            404,
            f"no model is called {model!r}; {MODEL} takes your own text, and /v1/models lists "
            "one for each caption type",
            code="model_not_found",
            param="model",
        )
    if not name and not option and text.strip():
        own_system = system or load_table().system_prompts[0]
        return Prompt("custom", harmless(text), own_system, "mixed", sampling=sampling)
    try:
        load_table().find_type(name or "descriptive")
    except UsageError as error:
        raise RefusedError(404, str(error), code="model_not_found", param="model") from error
    length, words = _length(option)
    return build_prompt(
        name or "descriptive",
        length=length,
        words=words,
        system=system or None,
        sampling=sampling,
    )


def model_names() -> list[str]:
    """Every name that `/v1/models` lists."""
    return [MODEL, *(f"{MODEL}/{row.name}" for row in load_table().types)]


def decode_image(data_url: str) -> bytes:
    """The bytes in a `data:` URL.

    Raises:
        ImageError: It is no base64.
    """
    try:
        return pybase64.b64decode(data_url[data_url.index(",") + 1 :].strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the image is no valid base64: {error}") from error


def _length(option: str) -> tuple[str, int | None]:
    if words := _WORDS.fullmatch(option):
        return "any", int(words[1])
    spelled = {length.replace(" ", "-"): length for length in load_table().lengths}
    return spelled.get(option, option or "any"), None


def _sampling(data: _Body) -> Sampling:
    usual = Sampling()
    most = data.max_completion_tokens or data.max_tokens
    # Without a seed a tool's "again" button must not bring the same caption; tools also write -1.
    drawn = data.seed is None or data.seed < 0
    return Sampling(
        temperature=usual.temperature if data.temperature is None else data.temperature,
        top_p=usual.top_p if data.top_p is None else data.top_p,
        max_tokens=most or usual.max_tokens,
        seed=random.getrandbits(31) if drawn else data.seed,
    )


def _texts(messages: Sequence[_Message], *roles: str) -> Iterator[str]:
    for message in messages:
        if message.role not in roles or message.content is None:
            continue
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content if part.type == "text" and part.text)


def _only_image(messages: Sequence[_Message]) -> str:
    if any(message.role in ("assistant", "tool", "function") for message in messages):
        raise RefusedError(
            400, "conversations are not supported: send one picture with one question"
        )
    parts = [part for m in messages if isinstance(m.content, list) for part in m.content]
    if strange := {part.type for part in parts} - {"text", "image_url"}:
        raise RefusedError(400, f"parts of type {min(strange)!r} are not supported")
    urls = [part.image_url.url for part in parts if part.image_url is not None]
    if len(urls) != 1:
        raise RefusedError(
            400,
            f"JoyCaption describes one picture, and this request holds {len(urls)}: send one "
            "as an image_url part with a data: URL",
        )
    if not _DATA_URL.match(urls[0]):
        raise RefusedError(
            400,
            "pictures are taken as data: URLs with base64 only; the gateway fetches no addresses",
            code="invalid_image_url",
        )
    return urls[0]


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
