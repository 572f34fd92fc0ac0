"""A prepared picture that takes memory only while requests about it are on their way out.

512 pictures without compression are 226 MB; of so many in flight, few are being sent and the others
wait for their answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from joycap_vllm.errors import ImageError
from joycap_vllm.images.recipe import Prepared

_KEPT = 128 << 10  # bytes; a smaller picture is not worth making twice


class Picture:
    """One image's picture, sent as often as its tasks ask.

    Args:
        prepared: The picture.
        sends: How many requests about it are sure to be sent.
        again: Prepares it anew; None keeps it in memory for as long as this lives.

    Attributes:
        facts: The picture but for its data, which is empty.
        size: Bytes of the data.
    """

    __slots__ = ("_again", "_data", "_sends", "facts", "size")

    def __init__(
        self,
        prepared: Prepared,
        *,
        sends: int = 1,
        again: Callable[[], Awaitable[Prepared]] | None = None,
    ) -> None:
        self.facts = replace(prepared, data=b"")
        self.size = len(prepared.data)
        self._data: bytes | None = prepared.data
        self._sends = sends
        self._again = again if self.size > _KEPT else None

    async def data(self) -> bytes:
        """The picture as it is sent; made anew where it has been let go.

        Raises:
            ImageError: It cannot be had again, or is another picture by now.
        """
        if self._data is not None or self._again is None:
            return self._data or b""
        made = await self._again()
        if made.sha256 != self.facts.sha256:
            raise ImageError("the picture was changed while it was asked about")
        return made.data

    def sent(self) -> None:
        """A request with it has gone out whole; it is let go after the last that is sure."""
        self._sends -= 1
        if self._sends <= 0 and self._again is not None:
            self._data = None
