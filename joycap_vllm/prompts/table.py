"""JoyCaption's prompt table, read from `joycaption.json` beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.prompts.prompt import Style


@dataclass(frozen=True, slots=True)
class CaptionType:
    """A row of the table.

    Args:
        name: The name that commands take, such as `danbooru-tag-list`.
        title: Upstream's name, such as `Danbooru tag list`.
        style: What its answers look like.
        any: The text without a length.
        words: The text with `{word_count}`.
        length: The text with `{length}`.
    """

    name: str
    title: str
    style: Style
    any: str
    words: str
    length: str


@dataclass(frozen=True, slots=True)
class ExtraOption:
    """A sentence that may be added to any caption type; `number` is upstream's order from 1."""

    number: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for a caption type, perhaps with a length, or for a text of its own."""

    type: str | None = None
    length: str = "any"
    text: str | None = None


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The whole table with its source."""

    source: str
    types: tuple[CaptionType, ...]
    extras: tuple[ExtraOption, ...]
    lengths: tuple[str, ...]
    system_prompts: tuple[str, ...]
    aliases: dict[str, Alias]
    legacy_styles: dict[str, Alias]

    def find_type(self, name: str) -> tuple[CaptionType, str]:
        """The caption type of that name, title or alias, and the length that an alias implies.

        Raises:
            UsageError: No such type; the text lists those there are.
        """
        wanted = slug(name)
        length = "any"
        if wanted in self.aliases:
            alias = self.aliases[wanted]
            wanted, length = alias.type or wanted, alias.length
        for row in self.types:
            if row.name == wanted:
                return row, length
        known = ", ".join(row.name for row in self.types)
        raise UsageError(f"no caption type is called {name!r}; there are: {known}")

    def find_extra(self, wanted: str) -> str:
        """The text of an extra option by short name or number; any other text stands for itself.

        Raises:
            UsageError: A number outside the table, or a single word that names no option.
        """
        for option in self.extras:
            if wanted.strip() in (option.name, str(option.number)):
                return option.text
        if wanted.strip().isdigit():
            raise UsageError(f"extra options are numbered 1 to {len(self.extras)}, not {wanted}")
        if " " not in wanted.strip():
            names = ", ".join(option.name for option in self.extras)
            raise UsageError(
                f"no extra option is called {wanted!r}; there are: {names}. "
                "A sentence of your own is taken as it is."
            )
        return wanted.strip()


def slug(name: str) -> str:
    """`Descriptive (Casual)` and `descriptive_casual` both become `descriptive-casual`."""
    kept = "".join(c if c.isalnum() else " " for c in name.lower())
    return "-".join(kept.split())


@cache
def load_table() -> PromptTable:
    """The table that ships with the package."""
    data: dict[str, Any] = orjson.loads(
        files("joycap_vllm.prompts").joinpath("joycaption.json").read_bytes()
    )
    return PromptTable(
        source=data["source"],
        types=tuple(CaptionType(**row) for row in data["caption_types"]),
        extras=tuple(ExtraOption(**row) for row in data["extra_options"]),
        lengths=tuple(data["lengths"]),
        system_prompts=tuple(data["system_prompts"]),
        aliases={name: Alias(**alias) for name, alias in data["aliases"].items()},
        legacy_styles={name: Alias(**alias) for name, alias in data["legacy_styles"].items()},
    )
