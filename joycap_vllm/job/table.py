"""Keys that were seen."""

from __future__ import annotations


class Seen:
    """A set of texts."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def add(self, text: str) -> bool:
        """Adds a text; returns whether it is new."""
        before = len(self._texts)
        self._texts.add(text)
        return len(self._texts) > before
