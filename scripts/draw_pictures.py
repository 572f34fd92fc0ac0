"""Draws the nano model's pictures: one shape of one colour at one place on a plain background.

As a script it fills a folder with random ones: ``draw_pictures.py FOLDER --count 12 --seed 0``.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")
PLACES = {
    "center": (0.5, 0.5),
    "top left": (0.3, 0.3),
    "top right": (0.7, 0.3),
    "bottom left": (0.3, 0.7),
    "bottom right": (0.7, 0.7),
}
COLORS = {
    "red": (215, 35, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (45, 150, 65),
    "blue": (45, 85, 215),
    "purple": (125, 45, 160),
    "black": (20, 20, 22),
    "white": (245, 245, 243),
}
_RADIUS = {"small": (0.09, 0.13), "large": (0.21, 0.26)}
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Scene:
    """What one picture shows; every field is a word that a right caption must name."""

    shape: str
    size: str
    color: str
    place: str
    background: str


def random_scene(rng: random.Random) -> Scene:
    """A scene with two different colours."""
    color, background = rng.sample(list(COLORS), 2)
    return Scene(
        shape=rng.choice(SHAPES),
        size=rng.choice(SIZES),
        color=color,
        place=rng.choice(list(PLACES)),
        background=background,
    )


def _jittered(color: str, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-10, 10))) for c in COLORS[color])
    return red, green, blue


def draw(scene: Scene, rng: random.Random, width: int = 384, height: int = 384) -> Image.Image:
    """Draws `scene` as an RGB picture; `rng` moves and tints it a little."""
    w, h = width * _OVERSAMPLING, height * _OVERSAMPLING
    image = Image.new("RGB", (w, h), _jittered(scene.background, rng))
    x, y = (share + rng.uniform(-0.03, 0.03) for share in PLACES[scene.place])
    radius = rng.uniform(*_RADIUS[scene.size]) * min(w, h)
    left, top, right, bottom = x * w - radius, y * h - radius, x * w + radius, y * h + radius
    pen, fill = ImageDraw.Draw(image), _jittered(scene.color, rng)
    if scene.shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=fill)
    elif scene.shape == "square":
        pen.rectangle((left, top, right, bottom), fill=fill)
    else:
        pen.polygon(((x * w, top), (right, bottom), (left, bottom)), fill=fill)
    return image.resize((width, height), Image.Resampling.BOX)


def fill_folder(folder: Path, count: int, seed: int) -> list[tuple[Path, Scene]]:
    """Writes `count` JPEG pictures of different scenes and sizes, named by what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    pictures: list[tuple[Path, Scene]] = []
    for number in range(1, count + 1):
        scene = random_scene(rng)
        width, height = rng.choice(((640, 480), (512, 512), (480, 640), (1200, 900)))
        words = "-".join(asdict(scene).values()).replace(" ", "-")
        path = folder / f"{number:02d}-{words}.jpg"
        draw(scene, rng, width, height).save(path, quality=95)
        pictures.append((path, scene))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path, scene in fill_folder(options.folder, options.count, options.seed):
        print(json.dumps({"path": str(path), **asdict(scene)}))


if __name__ == "__main__":
    main()
