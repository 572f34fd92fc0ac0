"""From a caption type and options to a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from joycap_vllm.errors import UsageError
from joycap_vllm.prompts.prompt import Choice, Prompt, Sampling, Style
from joycap_vllm.prompts.table import CaptionType, load_table
from joycap_vllm.prompts.template import variables_of

# Each variant of dual_caption.py (charSLee013/joycaption @bfe99a4): type, words, answer tokens.
DUAL = (("booru-like-tag-list", 50), ("straightforward", 160))


def build_prompt(
    type_name: str = "descriptive",
    *,
    length: str = "any",
    words: int | None = None,
    extras: Sequence[str] = (),
    name: str = "",
    system: str | None = None,
    sampling: Sampling | None = None,
) -> Prompt:
    """The prompt of a caption type, exactly as upstream's table words it.

    Only the table's own rows are formatted: braces in a text of the user's stay as they are.

    >>> build_prompt("descriptive", words=20).text
    'Write a detailed description for this image in 20 words or less.'

    Args:
        type_name: Name, title or alias of a caption type.
        length: One of the table's lengths, or a number of words as digits.
        words: Word limit; not together with a length.
        extras: Extra options by short name, number or verbatim.
        name: What `{name}` becomes; empty leaves upstream's `{NAME}`.
        system: System prompt; None is the model card's.
        sampling: How answers are drawn.

    Raises:
        UsageError: An unknown type, length or extra option, or both length and words.
    """
    table = load_table()
    row, implied = table.find_type(type_name)
    length = implied if length == "any" and words is None else length
    if re.fullmatch(r"[0-9]{1,4}", length):
        length, words = "any", int(length) if words is None else words
    if words is not None and length != "any":
        raise UsageError("give either a length or a number of words, not both")
    sentences = [_row_text(row, length, words), *(table.find_extra(extra) for extra in extras)]
    own = {option.text for option in table.extras}
    filled = [
        sentence.replace("{name}", name or "{NAME}") if i == 0 or sentence in own else sentence
        for i, sentence in enumerate(sentences)
    ]
    return Prompt(
        name=row.name,
        text=" ".join(filled),
        system=table.system_prompts[0] if system is None else system,
        style=row.style,
        words=words,
        sampling=sampling or Sampling(),
    )


def _row_text(row: CaptionType, length: str, words: int | None) -> str:
    if words is not None:
        if words < 1:
            raise UsageError(f"a caption needs at least one word, not {words}")
        return row.words.replace("{word_count}", str(words))
    if length == "any":
        return row.any
    lengths = load_table().lengths
    if length not in lengths:
        length = length.replace("-", " ")  # very-short, which shells leave whole
    if length not in lengths:
        raise UsageError(
            f"no length is called {length!r}; there are: {', '.join(lengths)}, or --words N"
        )
    return row.length.replace("{length}", length)


def build_prompts(prompt: str | Prompt | Sequence[str | Prompt]) -> tuple[Prompt, ...]:
    """One prompt or several, each a caption type by name or a prompt.

    Raises:
        UsageError: An unknown type, none at all, or two of one name.
    """
    asked = [prompt] if isinstance(prompt, str | Prompt) else prompt
    made = tuple(build_prompt(p) if isinstance(p, str) else p for p in asked)
    names = [p.name for p in made]
    if not names:
        raise UsageError("give at least one prompt")
    if len(set(names)) < len(names):
        raise UsageError(f"two prompts have one name, by which captions are told apart: {names}")
    return made


def custom_prompt(
    choices: str | Sequence[Choice],
    *,
    system: str | None = None,
    sampling: Sampling | None = None,
    style: Style = "mixed",
) -> Prompt:
    """A prompt of the user's own: one text, or several that are drawn by weight for each image.

    >>> custom_prompt("Which colours are there?", style="tags").text
    'Which colours are there?'

    Raises:
        UsageError: A text is empty, or holds a variable that no image can fill in.
    """
    choices = [Choice(choices)] if isinstance(choices, str) else choices
    for choice in choices:
        if not choice.text.strip():
            raise UsageError("the prompt is empty")
    texts = [choice.text for choice in choices]
    return Prompt(
        name="custom",
        text=texts[0] if len(texts) == 1 else "",
        choices=tuple(choices) if len(texts) > 1 else (),
        system=load_table().system_prompts[0] if system is None else system,
        style=style,
        template=any(variables_of(text) for text in texts),
        sampling=sampling or Sampling(),
    )


def dual_prompts(*, system: str | None = None, sampling: Sampling | None = None) -> list[Prompt]:
    """The pair of dual_caption.py: Booru-like tags within 50 words, prose within 160."""
    return [
        build_prompt(name, words=words, system=system, sampling=sampling) for name, words in DUAL
    ]


def legacy_prompt(style: str) -> Prompt:
    """One of the six styles of the AI-Toolkit captioning service.

    Raises:
        UsageError: No such style.
    """
    styles = load_table().legacy_styles
    if style not in styles:
        raise UsageError(f"no style is called {style!r}; there are: {', '.join(styles)}")
    alias = styles[style]
    if alias.text is not None:
        return Prompt("descriptive", alias.text, load_table().system_prompts[0], "prose")
    return build_prompt(alias.type or style, length=alias.length)
