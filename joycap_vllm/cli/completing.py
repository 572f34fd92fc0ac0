"""What the shell offers at Tab for values that are no files: each function takes what is typed.

Nothing is imported before Tab is pressed.
"""

from __future__ import annotations

from collections.abc import Iterable

_Offer = tuple[str, str]  # a value, and what some shells show beside it


def caption_types(incomplete: str) -> list[_Offer]:
    """Caption types and their other names, with the style of their captions."""
    from joycap_vllm.prompts import load_table

    table = load_table()
    others = [(alias, meant.type or "") for alias, meant in table.aliases.items()]
    return _fitting(incomplete, [*((row.name, row.style) for row in table.types), *others])


def lengths(incomplete: str) -> list[_Offer]:
    """Lengths of captions, without spaces, which shells would split at."""
    from joycap_vllm.prompts import load_table

    return _fitting(incomplete, ((name.replace(" ", "-"), "") for name in load_table().lengths))


def extra_options(incomplete: str) -> list[_Offer]:
    """Short names of extra options, with their texts."""
    from joycap_vllm.prompts import load_table

    return _fitting(incomplete, ((option.name, option.text) for option in load_table().extras))


def endings(incomplete: str) -> list[_Offer]:
    """How tasks end without a caption: outcomes, and kinds of glitches."""
    from joycap_vllm.job.again import ENDINGS

    return _fitting(incomplete, ((name, "") for name in ENDINGS))


def endings_or_all(incomplete: str) -> list[_Offer]:
    """The same, or all tasks."""
    return [*endings(incomplete), *_fitting(incomplete, [("all", "good captions too")])]


def machines(incomplete: str) -> list[_Offer]:
    """GPUs that plans are made for."""
    from joycap_vllm.server.known import CARDS

    return _fitting(incomplete, ((name, "") for name in CARDS))


def shards(incomplete: str) -> list[_Offer]:
    """Parts of work that two or four machines share."""
    return _fitting(incomplete, ((f"{n}/{of}", "") for of in (2, 4) for n in range(1, of + 1)))


def served_models(incomplete: str) -> list[_Offer]:
    """Models that need no path."""
    return _fitting(
        incomplete, [("nano", "the embedded model"), ("default", "JoyCaption Beta One")]
    )


def _fitting(incomplete: str, offers: Iterable[_Offer]) -> list[_Offer]:
    return [offer for offer in offers if offer[0].startswith(incomplete)]
