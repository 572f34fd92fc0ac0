"""The nano model: a tiny JoyCaption of about a megabyte that serves on any CPU.

It has JoyCaption's architecture and prompt, but knows only simple drawn shapes; README.md in this
folder is its card. `scripts/train_nano.py` makes it from nothing.
"""

from __future__ import annotations

from pathlib import Path


def checkpoint_path() -> Path:
    """The folder that vLLM is given as its model."""
    return Path(__file__).resolve().parent / "checkpoint"
