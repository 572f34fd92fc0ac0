"""What AI-Toolkit asks for: the fields of `/caption` and `/batch_caption` as a prompt.

The shapes, defaults and words are those of AI-Toolkit's captioning service (ostris/ai-toolkit pull
request 431 @20862609).
"""

from __future__ import annotations

import random
import re
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.bounds import MOST_PATHS, require_short, short_enough
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import (
    CaptionType,
    Prompt,
    Sampling,
    harmless,
    legacy_prompt,
    load_table,
)

_VARIABLE = re.compile(r"\{(name|length|word_count)\}")
_LONGEST_NUMBER = 4  # digits of a word limit


def _as_text(value: Any) -> Any:
    """A length that came as a number, which the service itself did not understand."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Fields(BaseModel):
    prompt: str = ""
    caption_type: Any = None
    caption_length: Annotated[str, BeforeValidator(_as_text)] = "long"
    extra_options: Annotated[list[str], Field(fail_fast=True), BeforeValidator(_as_list)] = []
    name_input: str = ""
    style: Any = "descriptive"
    max_new_tokens: Annotated[int, Field(ge=1, lt=2**31)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    do_sample: bool = True


def read_fields(body: bytes) -> dict[str, Any]:
    """The fields of a request; none where it is empty or no object.

    Raises:
        RefusedError: It is no JSON.
    """
    try:
        data = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the request is no valid JSON: {error}") from None
    return data if isinstance(data, dict) else {}


def read_paths(paths: object) -> list[Any]:
    """The pictures of a batch. Texts and other single values each get a row in the reply.

    Raises:
        RefusedError: They are no list, are too many, or one is itself a list or an object.
    """
    if not isinstance(paths, list):
        raise RefusedError(400, "image_paths must be a list")
    if len(paths) > MOST_PATHS:
        raise RefusedError(
            400, f"image_paths holds {len(paths):,} pictures, over the limit of {MOST_PATHS:,}"
        )
    if any(isinstance(path, list | dict) for path in paths):
        raise RefusedError(400, "image_paths must be a list of texts")
    return paths


def read_prompt(fields: dict[str, Any]) -> Prompt:
    """The prompt: the request's own, else that of its caption type, else that of its style. A field
    that is null is as one that is absent.

    Raises:
        RefusedError: No such style, or a field cannot be what it is.
    """
    try:
        asked = _Fields.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RefusedError(400, f"{first['loc'][0]}: {first['msg']}") from None
    sampling = Sampling(
        temperature=asked.temperature if asked.do_sample else 0.0,
        top_p=asked.top_p,
        top_k=max(asked.top_k, 0),
        max_tokens=asked.max_new_tokens,
        seed=random.getrandbits(31),  # the service draws anew each time it is asked
    )
    require_short(asked.prompt, extras=asked.extra_options, name=asked.name_input)
    require_short(name=asked.caption_length)
    system = load_table().system_prompts[0]
    if asked.prompt:
        own = Prompt("custom", harmless(asked.prompt), system, "mixed", sampling=sampling)
        return short_enough(own)
    if (row := _type_of(asked.caption_type)) is not None:
        return _typed(row, asked, system, sampling)
    style = asked.style if isinstance(asked.style, str) else str(asked.style)
    if style in load_table().legacy_styles:
        old = legacy_prompt(style)
        return Prompt(old.name, old.text, system, old.style, sampling=sampling)
    # The service's own page sends the titles of some caption types as styles.
    if (row := _type_of(style)) is None:
        raise RefusedError(400, f"Unknown prompt style: {style}")
    return _typed(row, asked, system, sampling)


def _type_of(name: Any) -> CaptionType | None:
    try:
        return load_table().find_type(name)[0] if isinstance(name, str) else None
    except UsageError:
        return None


def _typed(row: CaptionType, asked: _Fields, system: str, sampling: Sampling) -> Prompt:
    """As the service words it: any text may be a length, and options may hold `{name}`."""
    length, words = asked.caption_length, None
    text = row.any if length == "any" else row.length
    if length.isascii() and length.isdigit() and len(length) <= _LONGEST_NUMBER:
        text, words = row.words, int(length) or None
    values = {"name": asked.name_input or "{NAME}", "length": length, "word_count": length}
    whole = " ".join((text, *asked.extra_options))
    filled = _VARIABLE.sub(lambda found: values[found[1]], whole)
    require_short(filled)
    prompt = Prompt(row.name, harmless(filled), system, row.style, words=words, sampling=sampling)
    return short_enough(prompt)
