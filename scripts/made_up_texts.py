"""Captions and glitched answers, made up from a few words: what benches and tests feed a judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_THINGS = (
    "car", "house", "dog", "bridge", "lamp", "boat", "chair", "tree", "clock", "kettle", "bicycle",
    "tower", "piano", "basket",
)  # fmt: skip
_COLORS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "gray",
)  # fmt: skip
_PLACES = (
    "on a wet road", "beside a river", "in a narrow street", "under a cloudy sky", "in tall grass",
    "at the edge of a forest", "on a wooden table", "in front of a brick wall", "near the sea",
)  # fmt: skip
_VERBS = ("stands", "lies", "can be seen", "waits", "rests", "leans to the left")
_LIGHTS = ("morning", "evening", "noon", "neon", "candle", "winter")
_REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I cannot describe this image.",
    "I'm unable to provide a caption for this picture.",
    "Sorry, I can't assist with that.",
)
_LEAKS = (
    "<|eot_id|>",
    "<|start_header_id|>assistant",
    "</s>",
    "\nassistant\n\nAnother image shows a",
)


@dataclass(frozen=True)
class Row:
    """A text that a server answers; `finish` is its finish reason, empty for none."""

    text: str
    bad: bool
    kind: str
    style: str
    finish: str


def made_up_rows(seed: int = 0, each: int = 40) -> list[Row]:
    """Good and bad texts of every style, `each` of a kind."""
    rng = random.Random(seed)
    rows = []
    makers: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
        ("prose", _prose),
        ("tags", _tags),
        ("mixed", _tags),
        ("mixed", _prose),
    )
    for style, make in makers:
        for _ in range(each):
            text = make(rng)
            rows += [Row(text, False, "good", style, "stop"), *_glitched(rng, text, style)]
    return rows


def _glitched(rng: random.Random, text: str, style: str) -> list[Row]:
    unit = ", ".join(_some_tags(rng, 3)) + ", " if style == "tags" else _sentence(rng) + " "
    cut = text[: int(len(text) * rng.uniform(0.4, 0.9))].rstrip(" ,.")
    return [
        Row(f"{text}, {unit * 20}" if style == "tags" else f"{text} {unit * 20}",
            True, "loop", style, "length"),
        Row(cut, True, "cut", style, "length"),
        Row(rng.choice(_REFUSALS), True, "refusal", style, "stop"),
        Row(text + rng.choice(_LEAKS), True, "leak", style, "stop"),
        Row(rng.choice(("", " ", "\n\n")), True, "empty", style, "stop"),
    ]  # fmt: skip


def _prose(rng: random.Random) -> str:
    light = f"The light is that of {rng.choice(_LIGHTS)}, and {rng.randint(2, 90)} shadows fall."
    return " ".join([*(_sentence(rng) for _ in range(rng.randint(3, 7))), light])


def _sentence(rng: random.Random) -> str:
    color, other = rng.sample(_COLORS, 2)
    first, second = rng.sample(_THINGS, 2)
    return (
        f"A {color} {first} {rng.choice(_VERBS)} {rng.choice(_PLACES)}, and {rng.randint(1, 9)} "
        f"steps away there is a {other} {second}."
    )


def _tags(rng: random.Random) -> str:
    return ", ".join(_some_tags(rng, rng.randint(8, 20)))


def _some_tags(rng: random.Random, count: int) -> Sequence[str]:
    every = [f"{color}_{thing}" for color in _COLORS for thing in _THINGS]
    return rng.sample(every, count)
