"""What commands tell users, beside their data."""

from __future__ import annotations

import typer


def say(text: str) -> None:
    """A line of talk, on stderr; what is no printable text in it is shown escaped."""
    lines = text.split("\n")
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]
    typer.echo("\n".join(shown).encode("utf-8", "backslashreplace").decode(), err=True)
