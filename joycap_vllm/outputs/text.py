"""How a caption is dressed for trainers: one line, with what users put around it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
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
    """`text` with every run of white space that holds a line break as one space, and no controls.

    kohya reads only a caption file's first line; OneTrainer and SimpleTuner take each line as a
    caption of its own.
    """
    line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text)
    return _CONTROL.sub("", line).strip()


def dress(text: str, dressing: Dressing) -> str:
    """The caption as it stands in a sidecar."""
    line = one_line(text)
    trigger = dressing.trigger.strip()
    if trigger and not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", line, re.IGNORECASE):
        line = f"{trigger}, {line}"
    return one_line(f"{dressing.prefix}{line}{dressing.suffix}")


def undress(text: str, dressing: Dressing) -> str:
    """The caption without what `dress` put around it, as far as that is there."""
    text = text.strip().removeprefix(one_line(dressing.prefix))
    text = text.removesuffix(one_line(dressing.suffix)).strip()
    trigger = dressing.trigger.strip()
    return text.removeprefix(f"{trigger},").strip() if trigger else text


def join(first: str, second: str, *, tags: bool) -> str:
    """Two captions as one line: tags by a comma, prose as sentences."""
    first, second = one_line(first), one_line(second)
    if not first or not second:
        return first or second
    if tags:
        return f"{first.rstrip(', ')}, {second}"
    return f"{first} {second}" if _END.search(first) else f"{first}. {second}"
