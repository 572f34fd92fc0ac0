"""What `joycap COMMAND --help` teaches beside a command's own words: where its files are, and which
variables of the environment it heeds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_JOURNAL = (
    "DIR/.joycap/journal-*.jsonl: every outcome, one file for each run; status-*.json: what a run "
    "does; job.json: how the job was asked"
)
_AWAY = "~/.local/state/joycap-vllm (XDG_STATE_HOME): the same for folders that cannot be written"
_SERVERS = "~/.local/state/joycap-vllm (XDG_STATE_HOME): servers that run here, and their logs"
_KEY = "OPENAI_API_KEY: the servers' key; OPENAI_BASE_URL: a server"
_HUB = "HF_HOME: where models are; HF_TOKEN: for models that need one"
_PROXY = "every flag as JOYCAP_ and its name (beside each below)"

# By command: its files, and variables that are no flags' own.
_NOTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "caption": (("STEM.txt beside each image, or below --out", _JOURNAL, _AWAY), (_KEY, _HUB)),
    "serve": ((_SERVERS,), (_HUB, "CUDA_VISIBLE_DEVICES: GPUs that may be used")),
    "prompts": ((), ()),
    "lint": (("STEM.txt beside each image", _JOURNAL), (_KEY,)),
    "retry": ((_JOURNAL, _AWAY), (_KEY, _HUB)),
    "report": ((_JOURNAL,), ()),
    "status": ((_JOURNAL, _AWAY), ()),
    "export": ((_JOURNAL, _AWAY), ()),
    "doctor": ((_SERVERS,), (_KEY, _HUB)),
    "top": ((_SERVERS,), (_KEY,)),
    "gateway": (("~/.local/state/joycap-vllm (XDG_STATE_HOME): files and batches",), (_KEY,)),
    "bench": ((), (_KEY, _HUB)),
    "batch export": ((_JOURNAL,), ()),
    "batch import": ((_JOURNAL,), ()),
}


def help_of(name: str, command: Callable[..., Any]) -> str:
    """A command's docstring, its files and its environment.

    Paragraphs are lines, which are broken to the terminal's width when they are shown.
    """
    files, variables = _NOTES[name]
    parts = [_paragraph(part) for part in inspect.getdoc(command).split("\n\n")]  # type: ignore[union-attr]
    parts.append(f"Environment: {'; '.join((_PROXY, *variables))}.")
    if files:
        parts.append(f"Files: {'; '.join(files)}.")
    return "\n\n".join(parts)


def _paragraph(text: str) -> str:
    """One line, unless it is indented, as examples are."""
    return text if text.startswith(" ") else " ".join(text.split("\n"))
