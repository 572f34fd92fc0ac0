"""What a script of Ollama's asks for: the bodies of `/api/chat` and `/api/generate`."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from joycap_vllm.gateway.bounds import MOST_MESSAGES, MOST_PARTS, require_short_talk
from joycap_vllm.gateway.prompting import MODEL, prompt_for
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.request import Chat, decode_image
from joycap_vllm.prompts import Prompt, Sampling

_LARGEST_SEED = 2**62  # retries count upwards from it, and servers take 64 bits
_ANSWERS = ("assistant", "tool")
_Count = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # as servers take; scripts write -1
_Images = Annotated[list[str], Field(fail_fast=True, max_length=MOST_PARTS)]
_NO_BLANKS = dict.fromkeys(map(ord, " \t\r\n\v\f"))
_TAG = ":latest"  # that Ollama adds to each name without a tag


class _Options(BaseModel):
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: _Count | None = None
    num_predict: _Count | None = None
    seed: Annotated[int, Field(lt=_LARGEST_SEED)] | None = None


class _Message(BaseModel):
    role: str
    content: str | None = None
    images: _Images | None = None


_Messages = Annotated[list[_Message], Field(fail_fast=True, max_length=MOST_MESSAGES)]


class _Body(BaseModel):
    """The fields that mean something here; all others are let through unread."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    format: Any = None
    options: _Options | None = None


class _Chat(_Body):
    messages: _Messages | None = None


class _Generate(_Body):
    prompt: str | None = None
    system: str | None = None
    images: _Images | None = None


_B = TypeVar("_B", bound=_Body)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Args:
        model: The name that was asked for.
        stream: Whether the answer goes out as lines.
        prompt: What is asked of the picture.
        image: The picture as it was sent; None where nothing is asked of one.
        chat: A conversation to pass on instead; with neither the request only wants the model
            loaded.
    """

    model: str
    stream: bool
    prompt: Prompt
    image: str | None = None
    chat: Chat | None = None


def read_chat(body: bytes) -> Asked:
    """Reads a request to `/api/chat`.

    Raises:
        RefusedError: It is none, or asks for what the gateway does not do.
        UsageError: The model's name holds a length that the prompt table does not know.
    """
    data = _read(_Chat, body)
    return _asked(data, data.messages or [])


def read_generate(body: bytes) -> Asked:
    """Reads a request to `/api/generate`.

    Raises:
        RefusedError: It is none, or asks for what the gateway does not do.
        UsageError: The model's name holds a length that the prompt table does not know.
    """
    data = _read(_Generate, body)
    system = [_Message(role="system", content=data.system)] if data.system else []
    wanted = data.prompt or data.images
    user = [_Message(role="user", content=data.prompt, images=data.images)] if wanted else []
    return _asked(data, [*system, *user])


def known_model(name: str) -> str:
    """The model of the gateway that a name stands for: scripts have names such as `llava:13b` in
    them, and any that is not the gateway's own asks with the script's own text."""
    base = name.removesuffix(_TAG)
    return base if base.partition(":")[0].partition("/")[0] == MODEL else MODEL


def _read(kind: type[_B], body: bytes) -> _B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise RefusedError(400, f"{where}: {first['msg']}" if where else first["msg"]) from None


def _asked(data: _Body, messages: list[_Message]) -> Asked:
    """A caption where the last turn shows a picture, else a conversation."""
    require_short_talk([message.content or "" for message in messages])
    last = max((at for at, m in enumerate(messages) if m.role in _ANSWERS), default=-1)
    turn = [message for message in messages[last + 1 :] if message.role == "user"]
    images = [image for message in turn for image in message.images or ()]
    if len(images) > 1:
        raise RefusedError(
            400,
            f"JoyCaption describes one picture, and this request holds {len(images)}: send each "
            "in a request of its own",
        )
    text = "\n".join(message.content for message in turn if message.content)
    system = "\n".join(m.content for m in messages if m.role == "system" and m.content)
    sampling = _sampling(data.options)
    prompt = prompt_for(known_model(data.model), text, system, sampling)
    asked = Asked(data.model, data.stream is not False, prompt)
    if not any(message.content or message.images for message in messages):
        return asked
    if images and data.format:
        raise RefusedError(400, "format is not supported: a caption is plain text")
    if images:
        return replace(asked, image=images[0])
    if known_model(data.model) != MODEL:
        raise RefusedError(400, "this request holds no picture: send one as base64 in images")
    return replace(asked, chat=_conversation(data, messages, sampling))


def _conversation(data: _Body, messages: list[_Message], sampling: Sampling) -> Chat:
    """As a chat completion that servers of the OpenAI API take."""
    if data.format:
        raise RefusedError(400, "format is not supported")
    urls = [_url(image) for message in messages for image in message.images or ()]
    if len(urls) > 1:
        raise RefusedError(400, f"JoyCaption sees one picture, and this talk holds {len(urls)}")
    spoken = []
    for message in messages:
        text: Any = message.content or ""
        if message.images:
            shown = {"type": "image_url", "image_url": {"url": urls[0]}}
            text = [shown, {"type": "text", "text": text}]
        spoken.append({"role": message.role, "content": text})
    body = {
        "model": MODEL,
        "messages": spoken,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
    }
    return Chat(body, urls[0] if urls else None)


def _url(image: str) -> str:
    """Base64 as Ollama takes it, perhaps in lines; a `data:` URL is one already."""
    # Not by splitting: a text made of single letters would become as many objects.
    whole = image.translate(_NO_BLANKS)
    return whole if whole.startswith("data:") else f"data:image/jpeg;base64,{whole}"


def decode(image: str) -> bytes:
    """The bytes of a picture.

    Raises:
        ImageError: It is no base64.
    """
    return decode_image(_url(image))


def _sampling(options: _Options | None) -> Sampling:
    usual, given = Sampling(), options or _Options()
    most = given.num_predict or 0  # below 0 is as much as there may be
    drawn = given.seed is None or given.seed < 0
    return Sampling(
        temperature=usual.temperature if given.temperature is None else given.temperature,
        top_p=usual.top_p if given.top_p is None else given.top_p,
        top_k=max(given.top_k or 0, 0),
        max_tokens=most if most > 0 else usual.max_tokens,
        seed=random.getrandbits(31) if drawn else given.seed,
    )
