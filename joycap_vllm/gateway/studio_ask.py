"""What the studio's page asks for: its fields, read into prompts."""

from __future__ import annotations

import random
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

from joycap_vllm.gateway.bounds import MOST_EXTRAS, require_short, short_enough
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import ExtraOption, Prompt, Sampling, build_prompt, harmless, load_table

_LARGEST_SEED = 2**62  # retries count upwards from it, and servers take 64 bits
_SHORT_SEEDS = 1_000_000
_MOST_TYPES = 12
_USUAL = Sampling()

# The 27 extra options by what they are about; the studio shows them so.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("People", ("name", "no-fixed-traits", "ages")),
    (
        "Camera",
        ("camera-angle", "shot-type", "vantage-height", "depth-of-field", "camera-details"),
    ),
    (
        "Light and composition",
        ("lighting", "light-sources", "composition", "orientation"),
    ),
    (
        "Quality and marks",
        ("aesthetic-quality", "rating", "watermark", "mention-watermark", "jpeg-artifacts"),
    ),
    ("Leave out", ("no-text", "no-mood", "no-resolution", "no-artist-or-title", "pg")),
    ("Wording", ("important-only", "no-ambiguity", "no-meta-phrases", "blunt", "vulgar")),
)


class Ask(BaseModel):
    """How pictures are asked about.

    Args:
        types: Caption types, asked side by side.
        length: One of the table's lengths.
        words: Word limit; not together with a length.
        extras: Extra options by short name, number or verbatim.
        name: What `{name}` becomes.
        text: A prompt of the user's own, asked beside the types; empty for none.
        system: System prompt; empty is JoyCaption's own.
        temperature: 0 is greedy.
        top_p: Nucleus share.
        max_tokens: Upper bound of an answer, in tokens.
        seed: First seed; None draws one.
    """

    types: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_TYPES)] = ["descriptive"]
    length: str = "any"
    words: Annotated[int, Field(ge=1, le=9999)] | None = None
    extras: Annotated[list[str], Field(fail_fast=True, max_length=MOST_EXTRAS)] = []
    name: str = ""
    text: str = ""
    system: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = _USUAL.temperature
    top_p: Annotated[float, Field(gt=0, le=1)] = _USUAL.top_p
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = _USUAL.max_tokens
    seed: Annotated[int, Field(ge=0, lt=_LARGEST_SEED)] | None = None


class CaptionAsk(Ask):
    """A picture and how it is asked about.

    Args:
        image: The picture file as a `data:` URL in base64.
    """

    image: str


_A = TypeVar("_A", bound=Ask)


def read_ask(kind: type[_A], body: bytes) -> _A:
    """The fields of a request.

    Raises:
        RefusedError: They are none, with the first that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise RefusedError(400, message, param=where or None) from None


def prompts_of(ask: Ask) -> list[Prompt]:
    """What is asked, a prompt for each type and one for the user's own text.

    Raises:
        RefusedError: Neither a type nor a text, or a text that is too long.
        UsageError: A type, length or extra option that the prompt table does not know.
    """
    require_short(ask.text, ask.system, extras=ask.extras, name=ask.name)
    # Without a seed the page's "again" must not bring the same caption; a short one is easily
    # typed by who wants it again.
    seed = random.randrange(_SHORT_SEEDS) if ask.seed is None else ask.seed
    sampling = Sampling(ask.temperature, ask.top_p, 0, ask.max_tokens, seed)
    system = harmless(ask.system.strip()) or load_table().system_prompts[0]
    prompts = {}
    for name in ask.types:
        prompt = build_prompt(
            name,
            length=ask.length,
            words=ask.words,
            extras=[harmless(extra) for extra in ask.extras],
            name=harmless(ask.name.strip()),
            system=system,
            sampling=sampling,
        )
        prompts[prompt.name] = prompt
    if text := harmless(ask.text.strip()):
        prompts["custom"] = Prompt("custom", text, system, "mixed", sampling=sampling)
    if not prompts:
        raise RefusedError(400, "choose a caption type, or write a prompt of your own")
    return [short_enough(prompt) for prompt in prompts.values()]


def extra_groups() -> list[tuple[str, list[ExtraOption]]]:
    """The table's extra options under headings; those in no group last, under "Other"."""
    left = {option.name: option for option in load_table().extras}
    groups = [
        (title, [left.pop(name) for name in names if name in left]) for title, names in GROUPS
    ]
    return [*groups, ("Other", list(left.values()))] if left else groups
