"""How a caption is dressed for trainers: one line, with what users put around it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_END = re.compile(r"[.!?…\"'”’)]\Z")


@dataclass(frozen=True, slots=True)
class Dressing:
    """What is put around every caption.

    Args:
        prefix: Put before it, as it is.
        suffix: Put after it, as it is.
        trigger: A trigger word, put first with a comma where the caption does not hold it.
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str = ""


def one_line(text: str) -> str:
    """`text` with every run of white space that holds a line break as one space.

    kohya reads only a caption file's first line; OneTrainer and SimpleTuner take each line as a
    caption of its own.
    """
    return re.sub(r"[^\S\n\r\v\f\x85\u2028\u2029]*[\n\r\v\f\x85\u2028\u2029]\s*", " ", text).strip()


def dress(text: str, dressing: Dressing) -> str:
    """The caption as it stands in a sidecar."""
    line = one_line(text)
    trigger = dressing.trigger.strip()
    if trigger and not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", line, re.IGNORECASE):
        line = f"{trigger}, {line}"
    return one_line(f"{dressing.prefix}{line}{dressing.suffix}")


def join(first: str, second: str, *, tags: bool) -> str:
    """Two captions as one line: tags by a comma, prose as sentences."""
    first, second = one_line(first), one_line(second)
    if not first or not second:
        return first or second
    if tags:
        return f"{first.rstrip(', ')}, {second}"
    return f"{first} {second}" if _END.search(first) else f"{first}. {second}"
