"""What a server is about, as it is told to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a replica is about."""

    STARTING = "starting"
    READY = "ready"
    DIED = "died"
    GIVEN_UP = "given up"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Change:
    """A replica's new state.

    Attributes:
        url: Its base URL.
        state: What it is about now.
        why: The reason, where there is one to tell.
        gpu: Where it runs; empty on a CPU.
        log: The file that its log goes to.
        restarts: How often it was started again.
        at: When, in seconds since 1970.
    """

    url: str
    state: State
    why: str
    gpu: str
    log: str
    restarts: int
    at: float
