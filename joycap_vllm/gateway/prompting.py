"""Which prompt a tool means: by the model's name, by further fields, or by its own text."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.bounds import require_short, short_enough
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import Prompt, Sampling, build_prompt, harmless, load_table

MODEL = "joycaption"
_WORDS = re.compile(r"([1-9]\d{0,3})([ -]words?)?")


@dataclass(frozen=True, slots=True)
class Options:
    """What a tool may add to a request; all that is set goes before what the model's name says.

    Args:
        type: A caption type.
        length: A length of the prompt table, or `50-words`.
        words: A word limit.
        extras: Extra options by short name, number or verbatim.
        name: What `{name}` becomes.
        system: The system prompt; None leaves it to the messages.
    """

    type: str | None = None
    length: str | None = None
    words: int | None = None
    extras: tuple[str, ...] = ()
    name: str = ""
    system: str | None = None

    @property
    def choose(self) -> bool:
        """Whether they ask for a row of the prompt table."""
        return bool(self.type or self.length or self.words is not None or self.extras)


def model_names(served: Collection[str] = ()) -> list[str]:
    """Every name that `/v1/models` lists.

    Args:
        served: Names of the models that the fleet serves; each stands for `joycaption`.
    """
    types = [f"{MODEL}/{row.name}" for row in load_table().types]
    return list(dict.fromkeys([MODEL, *served, *types]))


def read_model(model: str, served: Collection[str] = ()) -> tuple[str, str]:
    """The caption type and the length that a model's name holds, each perhaps empty.

    Args:
        model: `joycaption`, or `joycaption/<type>`, or one of those with `:<length>` or
            `:<N>-words` behind it; or the name of a model that is served.
        served: As for `model_names`.

    Raises:
        RefusedError: No such model.
    """
    if model in served:
        return "", ""
    base, _, option = model.partition(":")
    family, slash, name = base.partition("/")
    if family != MODEL or (slash and not name):
        raise _unknown(
            f"no model is called {model!r}; {MODEL} takes your own text, and /v1/models lists "
            "one for each caption type"
        )
    try:
        load_table().find_type(name or "descriptive")
    except UsageError as error:
        raise _unknown(str(error)) from error
    return name, option


def prompt_for(
    model: str,
    text: str,
    system: str,
    sampling: Sampling,
    options: Options | None = None,
    served: Collection[str] = (),
) -> Prompt:
    """The prompt that a model's name, a tool's text and its options stand for.

    A caption type's model always asks with the type's own words: a tool that picks it sends some
    text of its own with every picture, which JoyCaption was not trained on.

    Args:
        model: As for `read_model`.
        text: The user's text; empty asks for the default caption type.
        system: The system prompt; empty is JoyCaption's own.
        sampling: How the answer is drawn.
        options: What the tool adds.
        served: As for `model_names`.

    Raises:
        RefusedError: No such model, or a text that is too long.
        UsageError: No such caption type, length or extra option.
    """
    options = options or Options()
    named, suffix = read_model(model, served)
    asked = system if options.system is None else options.system
    require_short(text, asked, extras=options.extras, name=options.name)
    own_system = harmless(asked)
    if not (named or suffix or options.choose) and text.strip():
        asked_system = own_system or load_table().system_prompts[0]
        own = Prompt("custom", harmless(text), asked_system, "mixed", sampling=sampling)
        return short_enough(own)
    param = "caption_length" if options.length else "model"
    length, words = _length(options.length or suffix, param)
    if options.words is not None:
        length, words = options.length or "any", options.words
    return short_enough(
        build_prompt(
            options.type or named or "descriptive",
            length=length,
            words=words,
            extras=[harmless(extra) for extra in options.extras],
            name=harmless(options.name),
            system=own_system or None,
            sampling=sampling,
        )
    )


def _length(option: str, param: str) -> tuple[str, int | None]:
    if words := _WORDS.fullmatch(option.strip()):
        return "any", int(words[1])
    spelled = {length.replace(" ", "-"): length for length in load_table().lengths}
    asked = option.strip().lower().replace(" ", "-") or "any"
    if asked not in spelled:
        there = f"there are {', '.join(spelled)}, and word limits such as 50-words"
        raise RefusedError(400, f"no length is called {option!r}; {there}", param=param)
    return spelled[asked], None


def _unknown(message: str) -> RefusedError:
    return RefusedError(404, message, code="model_not_found", param="model")
