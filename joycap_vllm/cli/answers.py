"""Flags about what becomes of answers: how many may be bad, and how captions are changed on their
way into sidecars (the journal keeps the model's text)."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

TAGS = "Tags and prose"


def _tags(
    context: typer.Context, flag: typer.CallbackParam, value: list[str] | None
) -> list[str] | None:
    """The variable of a flag as one value: it was split at spaces, which tags hold."""
    source = context.get_parameter_source(flag.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return value
    return [os.environ[str(flag.envvar)]]


MaxGlitchRate = Annotated[
    str,
    typer.Option(
        envvar="JOYCAP_MAX_GLITCH_RATE",
        rich_help_panel="How answers are drawn",
        metavar="RATE|off",
        help="Stop where more than this part of the last 200 tasks got a bad answer.",
    ),
]
Underscores = Annotated[
    Literal["keep", "spaces"],
    typer.Option(
        envvar="JOYCAP_UNDERSCORES",
        rich_help_panel=TAGS,
        help="spaces: long_hair becomes long hair, while ^_^ stays.",
    ),
]
TagSeparator = Annotated[
    str | None,
    typer.Option(
        envvar="JOYCAP_TAG_SEPARATOR",
        rich_help_panel=TAGS,
        help="What stands between tags. (default: as answered)",
    ),
]
AlwaysFirst = Annotated[
    list[str] | None,
    typer.Option(
        callback=_tags,
        metavar="TAG",
        envvar="JOYCAP_ALWAYS_FIRST",
        rich_help_panel=TAGS,
        help="Tag that goes first where it is there, or several with commas (so in the "
        "environment too); repeatable.",
    ),
]
Undesired = Annotated[
    list[str] | None,
    typer.Option(
        callback=_tags,
        metavar="TAG",
        envvar="JOYCAP_UNDESIRED",
        rich_help_panel=TAGS,
        help="Tag to leave out, or several with commas (so in the environment too); "
        "repeatable. Capitals do not matter, nor does _ for a space.",
    ),
]
DedupeTags = Annotated[
    bool,
    typer.Option(
        "--dedupe-tags",
        envvar="JOYCAP_DEDUPE_TAGS",
        rich_help_panel=TAGS,
        help="Keep only the first of equal tags.",
    ),
]
StripLeadIn = Annotated[
    bool,
    typer.Option(
        "--strip-lead-in",
        envvar="JOYCAP_STRIP_LEAD_IN",
        rich_help_panel=TAGS,
        help='Take "This image shows" and its like from the front of prose.',
    ),
]
