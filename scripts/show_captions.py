"""Prints pictures that draw_pictures.py made with their captions, and says which are right.

`show_captions.py FOLDER`; exit code 1 if a caption is missing or wrong about its picture.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from draw_pictures import Scene, fill_folder


def is_right(caption: str, scene: Scene) -> bool:
    """Whether a caption names shape, both colours, size and place, each where it belongs."""
    text = caption.lower()
    background = f"background is plain {scene.background}" in text or any(
        f"{plain}{scene.background} background" in text for plain in ("plain ", ", ")
    )
    described = f"{scene.size} {scene.color} {scene.shape}" in text or (
        f"{scene.color} {scene.shape}" in text and f"{scene.size} {scene.shape}" in text
    )
    return background and described and scene.place in text


def main() -> int:
    folder = Path(sys.argv[1])
    count, seed = (int(argument) for argument in sys.argv[2:4])
    table = Table("picture", "caption", "right")
    wrong = 0
    for path, scene in fill_folder(folder, count, seed):
        sidecar = path.with_suffix(".txt")
        caption = sidecar.read_text(encoding="utf-8") if sidecar.exists() else ""
        right = is_right(caption, scene)
        wrong += not right
        shown = ", ".join(asdict(scene).values())
        table.add_row(f"{path.name[:2]}: {shown}", caption or "(none)", "yes" if right else "NO")
    Console().print(table)
    print(f"{count - wrong} of {count} captions are right about their picture")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
