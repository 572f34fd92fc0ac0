"""AI-Toolkit's captioning service, as its tests call it.

The shapes are those of ostris/ai-toolkit pull request 431 @20862609: every field, default, text and
status that it has, in its order; what the gateway adds stands behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

CAPTION = "A red circle lies in the middle of a plain white ground."
TAGS = "1girl, solo, red_dress, standing, outdoors, tree, smile, long_hair"
LOOP = "red circle, " * 60
LEGACY = ["descriptive", "casual", "detailed", "straightforward", "stable_diffusion", "booru"]


def draw(path: Path, color: tuple[int, int, int] = (200, 30, 40)) -> str:
    """Makes a picture; its path as callers send it."""
    Image.new("RGB", (64, 48), color).save(path)
    return str(path)


async def post(client: httpx2.AsyncClient, path: str, **fields: Any) -> httpx2.Response:
    return await client.post(path, json=fields)


def sent_text(body: dict[str, Any]) -> str:
    """What a server was asked."""
    text: str = body["messages"][-1]["content"][1]["text"]
    return text
