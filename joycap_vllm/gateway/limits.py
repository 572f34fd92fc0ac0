"""What callers may ask for at most."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY = 32 << 20  # bytes; a picture of 24 MB as base64


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may ask for at most.

    Args:
        body: Bytes of a request.
        upload: Bytes of a file that is uploaded, as OpenAI takes.
        held: Bytes of the bodies of all requests under way.
        queue: Requests for work that may be inside at once.
        rate: Requests for work a second of each key, or without keys of each address; None is any.
        connections: Connections at once.
        head: Seconds for a request's head, from the first byte or the connection's beginning.
        idle: Seconds without a byte of a body that is still to come.
        least_rate: Bytes a second that a body must come with once `idle` seconds have passed.
    """

    body: int = MAX_BODY
    upload: int = 512 << 20
    held: int = 1 << 30
    queue: int = 1024
    rate: float | None = None
    connections: int = 4096
    head: float = 15.0
    idle: float = 20.0
    least_rate: float = 16 << 10

    def most(self, *, upload: bool) -> int:
        """Bytes of a body at most."""
        return self.upload if upload else self.body
