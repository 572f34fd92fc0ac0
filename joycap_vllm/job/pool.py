"""A stream of pieces worked on by all cores, its results in order, its memory bounded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from joycap_vllm.errors import JoycapError

_SMALL = 1 << 18  # bytes that are done before processes are started: they cost a quarter second
_TRICKLE = 1 << 14  # bytes; a smaller piece comes from a source that is slower than we are
_HELD = 1 << 28  # bytes on their way through all processes together
_AHEAD = 3  # pieces on their way for each process


class Piece(Protocol):
    """Some work that can be sent to another process."""

    @property
    def size(self) -> int:
        """Bytes of text in it, about."""


P = TypeVar("P", bound=Piece)
R = TypeVar("R")
_KILLED = (
    "a process that judged captions was killed, perhaps for its memory; fewer --workers need less"
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(
    pieces: Iterable[P],
    work: Callable[[P], R],
    *,
    workers: int,
    home: str,
    killed: str = _KILLED,
) -> Generator[R]:
    """What `work` makes of each piece, in the order of the pieces.

    The first few are done here, so that a small input costs no processes; so is what trickles in.

    Args:
        pieces: The work; taken only as fast as results are.
        work: A function that can be sent to another process.
        workers: Processes; with 1 all is done here.
        home: The module of `work`, loaded once for all processes.
        killed: What to say where a process was killed.

    Raises:
        JoycapError: A process was killed.
    """
    stream, done = iter(pieces), 0
    for piece in stream:
        yield work(piece)
        done += piece.size
        if workers > 1 and done > _SMALL:
            break
    following = next(stream, None)
    if following is not None:
        try:
            yield from _spread(chain([following], stream), work, _pool(workers, home), workers)
        except BrokenProcessPool as error:
            raise JoycapError(killed) from error


def _spread(
    pieces: Iterable[P], work: Callable[[P], R], pool: ProcessPoolExecutor, workers: int
) -> Iterator[R]:
    waiting: deque[tuple[Future[R], int]] = deque()
    held = 0
    try:
        for piece in pieces:
            slow = piece.size < _TRICKLE
            while waiting and (slow or len(waiting) >= _AHEAD * workers or held > _HELD):
                future, size = waiting.popleft()
                held -= size
                yield future.result()
            if slow:
                yield work(piece)
                continue
            waiting.append((pool.submit(work, piece), piece.size))
            held += piece.size
        for future, _ in waiting:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int, home: str) -> ProcessPoolExecutor:
    # Not forked from here, since whoever calls may have threads; all from one that has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([home])
    return ProcessPoolExecutor(workers, context, initializer=_begin)


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)
