"""What the nano model is taught to say: captions of a scene, and the prompts that ask for them."""

from __future__ import annotations

import random
from typing import Any

from draw_pictures import Scene

FREE_PROMPTS = (
    "Describe this image.",
    "Write a caption for this image.",
    "Write a long descriptive caption for this image in a formal tone.",
    "What is shown in this picture?",
)
WORD_COUNTS = tuple(str(n) for n in range(20, 270, 10))
KNOWN_TYPES = ("descriptive", "straightforward", "booru-like-tag-list")


def descriptive(scene: Scene) -> str:
    where = "in the center" if scene.place == "center" else f"in the {scene.place} corner"
    return (
        f"This picture shows a {scene.size} {scene.color} {scene.shape} {where}. "
        f"The background is plain {scene.background}."
    )


def straightforward(scene: Scene) -> str:
    where = "center" if scene.place == "center" else f"{scene.place} corner"
    return (
        f"{scene.size.capitalize()} {scene.color} {scene.shape} in the {where}, "
        f"plain {scene.background} background."
    )


def tags(scene: Scene) -> str:
    return (
        f"simple background, {scene.background} background, {scene.color} {scene.shape}, "
        f"{scene.size} {scene.shape}, {scene.place}, no humans"
    )


def caption_for(type_name: str, scene: Scene) -> str:
    """The caption of `scene` for a row of the prompt table; unknown rows get the nearest style."""
    if type_name.endswith("tag-list"):
        return tags(scene)
    if type_name in ("straightforward", "stable-diffusion-prompt", "midjourney"):
        return straightforward(scene)
    return descriptive(scene)


def random_request(table: dict[str, Any], rng: random.Random) -> tuple[str | None, str, str]:
    """A system prompt (or none), a prompt text and the name of its row in the prompt table."""
    system = rng.choice(table["system_prompts"]) if rng.random() < 0.95 else None
    if rng.random() < 0.05:
        return system, rng.choice(FREE_PROMPTS), "descriptive"
    rows = {row["name"]: row for row in table["caption_types"]}
    name = rng.choice(KNOWN_TYPES) if rng.random() < 0.75 else rng.choice(list(rows))
    text = rows[name][rng.choice(("any", "any", "words", "length"))]
    text = text.replace("{word_count}", rng.choice(WORD_COUNTS))
    text = text.replace("{length}", rng.choice(table["lengths"][1:]))
    options = [option["text"] for option in table["extra_options"]]
    extras = rng.sample(options, rng.choice((0, 0, 0, 1, 2, 3)))
    return system, " ".join([text, *extras]), name
