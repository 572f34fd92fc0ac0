"""What a request may hold at most, whichever door it comes to.

A request is read on the event loop, where it holds up all others, and a prompt is filled in, judged
and sent again: what is far beyond anything that a model reads is refused before any of that.
"""

from __future__ import annotations

from collections.abc import Sequence

from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.prompts import Prompt

MOST_TEXT = 65_536  # characters of a prompt, and of a system prompt
MOST_TALK = 1 << 20  # characters of a whole conversation
MOST_NAME = 1_000  # characters of a name or a length, which options may repeat
MOST_EXTRAS = 64
MOST_MESSAGES = 2_048
MOST_PARTS = 256  # of a message
MOST_PATHS = 10_000
MOST_CHOICES = 8
MOST_VALUES = 250_000  # commas and brackets of a request's JSON


def is_sprawling(body: bytes) -> bool:
    """Whether a JSON text holds so many values that only to read it would take long.

    Pictures in base64 hold no commas and brackets, however large they are.
    """
    return sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES


def require_terse(body: bytes) -> None:
    """Refuses a body that is sprawling.

    Raises:
        RefusedError: It is.
    """
    if is_sprawling(body):
        raise RefusedError(413, f"the request holds more than {MOST_VALUES:,} values")


def require_short(
    text: str = "", system: str = "", *, extras: Sequence[str] = (), name: str = ""
) -> None:
    """Refuses what no prompt is made of, before anything is filled in.

    Args:
        text: The caller's own prompt.
        system: The system prompt.
        extras: Extra options.
        name: What `{name}` becomes, or what else options may repeat.

    Raises:
        RefusedError: One of them is too long, or there are too many options.
    """
    _require("prompt", len(text), MOST_TEXT)
    _require("system prompt", len(system), MOST_TEXT)
    _require("name", len(name), MOST_NAME)
    if len(extras) > MOST_EXTRAS:
        raise RefusedError(
            400, f"there are {len(extras):,} extra options, over the limit of {MOST_EXTRAS}"
        )
    _require("text of the extra options", sum(map(len, extras)), MOST_TEXT)


def short_enough(prompt: Prompt, text: str = "") -> Prompt:
    """The prompt, once everything is filled in.

    Args:
        prompt: It.
        text: What is asked in place of its text, if anything.

    Raises:
        RefusedError: It is too long.
    """
    require_short(text or prompt.text, prompt.system)
    return prompt


def require_short_talk(texts: Sequence[str]) -> None:
    """Refuses a conversation that no model's context holds.

    Raises:
        RefusedError: It is one.
    """
    _require("conversation", sum(map(len, texts)), MOST_TALK)


def _require(what: str, length: int, most: int) -> None:
    if length > most:
        raise RefusedError(
            400,
            f"the {what} has {length:,} characters, over the limit of {most:,}",
            code="prompt_too_long",
        )
