"""Reads vLLM's log: what of it matters, and which of its errors is the real one."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

# Of a line in characters; vLLM's longest list every parameter of a model.
LONGEST = 300
# What vLLM puts before a message: "(EngineCore pid=12) ERROR 11-21 06:51:23 [core.py:133] ".
PREFIX = re.compile(
    r"^(?:\(([\w -]+?) pid=\d+\) )?(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"\d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?)?"
)
PROGRESS = re.compile(
    "|".join(
        (
            r"Downloading|Retrying in|Fetching \d+ files|Time spent downloading",
            r"\.safetensors: +\d+%\|",
            r"Starting to load model|Loading safetensors checkpoint shards: +(?:\d+)% Completed",
            r"Loading weights took|Model loading took",
            r"KV cache size|Maximum concurrency|Available KV cache memory",
            r"torch\.compile takes|Capturing CUDA graphs?:? .*100%|Graph capturing finished",
            r"init engine|Starting vLLM server on",
            r"Shutting down|Waiting for .* drain",
        )
    )
)
# An exception's last line: "pkg.SomeError: words", with or without words.
RAISED = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|Interrupt|Exit|NotFound|Failure)"
    r"(?:: .*)?$"
)
# What is raised because something else went wrong before, in another process.
ECHO = re.compile(
    r"Engine core initialization failed|EngineCore (?:failed|encountered)|EngineDeadError"
    r"|WorkerProc initialization failed|Worker failed with error|Executor failed"
    r"|^(?:\w+\.)*(?:KeyboardInterrupt|SystemExit|CancelledError|EOFError|BrokenPipeError"
    r"|ConnectionResetError)\b"
)
JOINTS = ("The above exception was the direct cause", "During handling of the above exception")
USAGE = re.compile(r"^(?:[\w./-]+: )?error: (.*)$")
# Complaints that every start makes, and that no user can do anything about.
USUAL = re.compile(
    r"Triton|ulimit|Inductor|Enforce eager|LD_PRELOAD|set_num_threads|SSM cache|Model Runner V2"
    r"|support disabling chunked prefill"  # which a CPU needs, and JoyCaption bears
    r"|global random seed is set"
)


def message(line: str) -> tuple[str, str]:
    """A line's level (or nothing) and its words, without vLLM's prefixes."""
    text = line.rstrip()
    level = ""
    while (match := PREFIX.match(text)) is not None and match.end() > 0:
        level = match[2] or level
        text = text[match.end() :]
    return level, text


def matters(line: str, *, ending: bool = False) -> str | None:
    """The words of a line that a user who waits wants to see; None for all others.

    Args:
        ending: Whether the server was told to end, after which its complaints mean nothing.
    """
    level, text = message(line)
    if not text.strip():
        return None
    if ending:
        return _progress(text)
    if RAISED.match(text):
        return None  # the last one is told when the server has died of it
    if level in {"ERROR", "CRITICAL"}:
        is_traceback = text.startswith((" ", "Traceback", *JOINTS))
        return None if is_traceback else f"error: {text[:LONGEST]}"
    if level == "WARNING":
        return None if USUAL.search(text) else f"warning: {text[:LONGEST]}"
    return _progress(text)


def _progress(text: str) -> str | None:
    return text.removeprefix("INFO:").strip() if PROGRESS.search(text) else None


def last_error(lines: Iterable[str]) -> str | None:
    """The error that explains why vLLM died.

    vLLM's processes die in a row: what went wrong is raised in a worker, and what the processes
    around it raise later only says that something went wrong. So the last traceback counts that
    is no such echo. Where that exception was raised from another one, both are told.
    """
    chains: list[list[str]] = []
    joined = False
    usage = last_words = None
    texts = [message(line) for line in lines]
    for (level, text), (_, following) in zip(texts, [*texts[1:], ("", "")], strict=True):
        if level in {"ERROR", "CRITICAL"} and text.strip() and not text.startswith(" "):
            last_words = text.strip()
        if match := USAGE.match(text.strip()):
            usage = match[1]
        elif text.startswith(JOINTS):
            joined = True
        elif text.startswith("Traceback") and not joined:
            chains.append([])
        elif RAISED.match(text):
            chains = chains or [[]]
            chains[-1].append(_told(text, following))
            joined = False
    found = _choose(chains) or usage or last_words
    return None if found is None else textwrap.shorten(found, 2 * LONGEST, placeholder=" …")


def _told(text: str, following: str) -> str:
    """An exception's words; pydantic puts its own on the line after a count of errors."""
    if "validation error" in text and following.startswith("  "):
        told = following.strip().removeprefix("Value error, ").split(" [type=", 1)[0]
        return f"ValueError: {told}"
    return text.strip()


def _choose(chains: list[list[str]]) -> str | None:
    real = [[text for text in chain if not ECHO.search(text)] for chain in chains]
    last = next((chain for chain in reversed(real) if chain), None)
    if last is None:
        return next((chain[-1] for chain in reversed(chains) if chain), None)
    return last[-1] if last[0] == last[-1] else f"{last[-1]} (from {last[0]})"
