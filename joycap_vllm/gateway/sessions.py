"""Who is logged in."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from joycap_vllm.gateway.keys import Key

LASTS = 7 * 86_400  # seconds
_MOST = 4096


class Sessions:
    """Who is logged in. Tokens are kept as digests; a session ends with its key.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[bytes, tuple[bytes, float]] = {}

    def begin(self, key: Key) -> str:
        """A new session's token; the oldest session ends where there are too many."""
        token = secrets.token_urlsafe(32)
        self._open[_digest(token)] = (key.secret, self._clock() + LASTS)
        if len(self._open) > _MOST:
            del self._open[next(iter(self._open))]
        return token

    def secret(self, token: str) -> bytes | None:
        """The key that a token stands for; None where it stands for none by now."""
        found = self._open.get(_digest(token))
        if found is None or found[1] < self._clock():
            return None
        return found[0]

    def end(self, token: str) -> None:
        """Ends a session."""
        self._open.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
