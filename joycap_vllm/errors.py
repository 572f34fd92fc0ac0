"""Every error of the package, sorted by what the caller should do about it.

JoycapError
├── UsageError                  mend the command                               exit 2
│   └── MissingExtraError       install the extra that it names
├── NoEndpointError             start or mend a server                         exit 3
├── SettingsChangedError        accept the change, or go back to the old ones  exit 4
├── EngineError                 read the engine's words: it could not start or died   exit 5
├── OutputError                 make room or give access, then run again       exit 1
├── ImageError                  this image is unusable; go on with the next
├── NoCaptionError              this image got no caption; go on with the next
└── RequestError                one request got no answer
    ├── RejectedError           the server refuses this request: never send it again
    ├── FullError               the server is full: wait, send again, charge nothing
    └── TransportError          the server or the way to it failed: send again, elsewhere
        └── UnreachableError    not even a connection: ask the endpoint's health first
"""

from __future__ import annotations

import errno


class JoycapError(Exception):
    """Base of all errors that joycap raises on purpose; its text is meant for users."""


class UsageError(JoycapError):
    """What was asked cannot be done as it was asked."""


class TooLargeError(UsageError):
    """A model that this machine's memory does not hold."""


class MissingExtraError(UsageError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'joycap-vllm[{extra}]'")


class NoEndpointError(JoycapError):
    """No endpoint could be reached, or none passed its check."""


class SettingsChangedError(JoycapError):
    """The journal was made with other settings."""


class EngineError(JoycapError):
    """vLLM could not be started, or died."""


class OutputError(JoycapError):
    """A journal or an output could not be written.

    Args:
        message: Which file, and the system's words.
        number: The system's error number, where it gave one.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number

    @property
    def stops_all(self) -> bool:
        """Whether the next file would fare no better: the disk is full or broken."""
        return self.number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class ImageError(JoycapError):
    """The image cannot be used; the text says why in a user's words."""


class NoCaptionError(JoycapError):
    """All attempts gave glitches, or the image cannot be captioned; the text says which and why."""


class RequestError(JoycapError):
    """A request ended without an answer.

    The fleet notes here which endpoint it was and how long it took.
    """

    endpoint: str = ""
    milliseconds: float = 0.0


class RejectedError(RequestError):
    """The server says that this very request is wrong.

    Args:
        message: The server's words.
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class FullError(RequestError):
    """The server cannot take more for now.

    Args:
        message: The server's words.
        retry_after: Seconds that the server asks to wait, where it says so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TransportError(RequestError):
    """A time-out, a broken connection, a server fault, or an answer that is none."""


class UnreachableError(TransportError):
    """No connection could be made."""
