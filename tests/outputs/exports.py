"""Captioned images for the tests of exports, and the texts that they must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from joycap_vllm.outputs import Asked, CaptionedImage

ONE = (Asked("prose", "Describe it."),)
TWO = (*ONE, Asked("booru", "List tags.", tags=True))
TEXTS = (
    'She said "hi", \\"twice\\" \\n',
    "</s> <image> <|eot_id|> {caption}",
    "Ein Mädchen, 猫の写真, قطة سوداء, 👩‍👩‍👧 \u202eback\u202c",
    "C:\\pictures\\new",
    "1girl, :3, \\(o\\)",
    "\u2028 not here, but \ufeff is",
    "x" * 100_000,
)
texts = st.text(st.characters(codec="utf-8"), min_size=1)


def record(prompt: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "key": "k", "prompt": prompt, "fp": "f" * 16, "outcome": outcome, "caption": "c",
        "glitch": None, "why": "", "attempts": [{}], "model": "m", "t": 1.7e9,
        "image": {"width": 40, "height": 30, "bytes": 9, "sha256": "a" * 64},
    } | more  # fmt: skip


def image(
    key: str, captions: dict[str, str], path: Path | None = None, **outcomes: dict[str, Any]
) -> CaptionedImage:
    return CaptionedImage(key, captions, {p: record(p) for p in captions} | outcomes, path)


def samples(path: Path) -> list[dict[str, Any]]:
    """As webdataset takes a shard apart; it leaves files open that it opens itself."""
    # Here, since it imports torch, and only few tests need it.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with path.open("rb") as stream:
        return list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
