"""One image that an input names by its URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from joycap_vllm.sources.image import Place, SourceImage


@dataclass(frozen=True, slots=True)
class SingleUrl:
    """An image that is no file.

    Args:
        key: Its key.
        place: Where it is.
    """

    key: str
    place: Place
    may_repeat: ClassVar[bool] = False
    beside: ClassVar[bool] = False

    @property
    def unreadable(self) -> Mapping[Path | str, str]:
        """Nothing is listed."""
        return {}

    def images(self) -> Iterator[SourceImage]:
        """The image."""
        yield SourceImage(self.key, self.place)

    def count(self) -> int:
        """One."""
        return 1
