"""Lines of a batch that were put off: when they are asked again, and when no more."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST_TRIES = 8  # of a line, while servers can be asked
_PAUSE = (1.0, 30.0)  # seconds, doubling, between two rounds of a batch


class Later:
    """The lines of one batch that are to be asked again. Meanwhile other batches get their turn.

    Args:
        clock: Seconds.

    Attributes:
        due: When they are to be asked again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[int, int] = {}
        self._left: set[int] = set()
        self._pause = _PAUSE[0]
        self.due = 0.0

    def __bool__(self) -> bool:
        return bool(self._left)

    def begin(self) -> None:
        """A new round begins, in which no line has been put off yet."""
        self._left.clear()

    def put_off(self, number: int, *, down: bool) -> bool:
        """Whether a line is to be asked again.

        Args:
            number: Its number.
            down: Whether no server can be asked, which is not the line's fault.
        """
        tries = self._tries.get(number, 0) + (not down)
        if tries >= _MOST_TRIES:
            return False
        self._tries[number] = tries
        self._left.add(number)
        return True

    def rest(self) -> None:
        """The round has ended; the next is due after a pause, longer each time."""
        self.due = self._clock() + self._pause
        self._pause = min(2 * self._pause, _PAUSE[1])
