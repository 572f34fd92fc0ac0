"""How a caption is dressed for trainers: one line, with what users put around it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from joycap_vllm.outputs.prose import strip_lead_in
from joycap_vllm.outputs.tags import TagOptions, polish_tags

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_END = re.compile(r"[.!?…\"'”’)]\Z")


@dataclass(frozen=True, slots=True)
class Dressing:
    """What is made of every caption, and put around it.

    Args:
        prefix: Put before it, as it is.
        suffix: Put after it, as it is.
        trigger: A trigger word, put first with a comma where the caption does not hold it.
        tags: What is made of lists of tags, before anything is put around them.
        strip_lead_in: Whether prose loses its "This image shows".
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str = ""
    tags: TagOptions = field(default_factory=TagOptions)
    strip_lead_in: bool = False

    def lasting(self) -> dict[str, Any]:
        """The fields as plain data; what is off stands only where jobs have always had it."""
        data = asdict(self)
        plain = asdict(Dressing())
        return {k: v for k, v in data.items() if k in _ALWAYS or v != plain[k]}


_ALWAYS = ("prefix", "suffix", "trigger")


def one_line(text: str) -> str:
    """`text` with every run of white space that holds a line break as one space, and no controls.

    kohya reads only a caption file's first line; OneTrainer and SimpleTuner take each line as a
    caption of its own.
    """
    if text.isprintable():  # nearly always, and much sooner told than searched
        return text.strip()
    line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text)
    return _CONTROL.sub("", line).strip()


def dress(text: str, dressing: Dressing, *, tags: bool = False) -> str:
    """The caption as it stands in a sidecar; empty where nothing is left of it.

    Args:
        text: The model's answer.
        dressing: What is made of it.
        tags: Whether it is a list of tags.
    """
    line = one_line(polish_tags(text, dressing.tags) if tags else text)
    if dressing.strip_lead_in and not tags:
        line = strip_lead_in(line)
    if not line:
        return ""
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


def exchange(line: str, old: str, new: str, *, tags: bool, first: bool) -> str | None:
    """What `join` made of a text and `old`, with `new` in the place of `old`.

    Args:
        line: Both, as `join` gave them, or `old` alone.
        old: The text that gives way.
        new: The text that takes its place.
        tags: As `join` was told.
        first: Whether `old` stands first.

    Returns:
        The new line; None where `old` does not stand there.
    """
    old = one_line(old)
    if not old or line == old:
        return new if old else None
    if first:
        start = old.rstrip(", ") if tags else old
        rest = line.removeprefix(start)
        between = ", " if tags else " " if _END.search(old) else ". "
        return join(new, rest[len(between) :], tags=tags) if rest.startswith(between) else None
    rest = line.removesuffix(old)
    return join(rest, new, tags=tags) if rest != line and rest.endswith(" ") else None
