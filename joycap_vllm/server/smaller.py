"""What helps a server that ran out of memory while it started."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from joycap_vllm.server.raw import named
from joycap_vllm.server.values import Flag, Replica

# vLLM's and PyTorch's words for three faults: others took memory meanwhile; too little was left for
# the KV cache once weights and work space were counted; it ran out.
_TAKEN = re.compile(r"less than desired GPU memory utilization", re.IGNORECASE)
_NO_CACHE = re.compile(
    r"No available memory for the cache blocks|KV cache is needed, which is larger"
    r"|larger than the (?:available KV cache|maximum)",
    re.IGNORECASE,
)
_OUT = re.compile(r"out of memory|OutOfMemory", re.IGNORECASE)
_LEAST_TOKENS = 2048
_LEAST_SHARE, _MOST_SHARE = 0.3, 0.97
_STEP = 0.06  # of the GPU's memory: what CUDA, a desktop or a slow free may hold
_WHY = "other than planned: it ran out of memory"
_EAGER = "--enforce-eager"


@dataclass(frozen=True)
class Smaller:
    """A replica that asks for less, and the change in words."""

    replica: Replica
    words: str


def is_memory(error: str) -> bool:
    """Whether a server's last words say that memory was short."""
    return any(words.search(error) for words in (_TAKEN, _NO_CACHE, _OUT))


def smaller(replica: Replica, error: str, raw: tuple[str, ...] = ()) -> Smaller | None:
    """The same server with other flags for its memory; None where nothing is left to change.

    Memory that others took is left to them. Where the KV cache is too small, a step gets fewer
    tokens and no CUDA graphs, and the cache what they held. Else all is made smaller: captions and
    tokens in a step by half, and the share.

    Args:
        replica: As it was started.
        error: Its last words.
        raw: The user's own flags, which are not touched.
    """
    own = named(raw)
    values = {f.name: f.value for f in replica.flags if f.name not in own}
    change: dict[str, str] = {}

    def exchange(name: str, new: Callable[[str], str]) -> None:
        value = values.get(name)
        if isinstance(value, str) and new(value) != value:
            change[name] = new(value)

    eager = _NO_CACHE.search(error) is not None and _EAGER not in values | dict.fromkeys(own)
    if _NO_CACHE.search(error):
        exchange("--gpu-memory-utilization", lambda share: _share(float(share) + _STEP / 2))
    else:
        exchange("--gpu-memory-utilization", lambda share: _share(float(share) - _STEP))
    if not _TAKEN.search(error):
        exchange("--max-num-batched-tokens", lambda n: str(max(int(n) // 2, _LEAST_TOKENS)))
    if not _TAKEN.search(error) and not _NO_CACHE.search(error):
        exchange("--max-num-seqs", lambda n: str(max(int(n) // 2, 1)))
    if not change and not eager:
        return None
    flags = tuple(
        replace(f, value=change[f.name], why=_WHY) if f.name in change else f for f in replica.flags
    )
    argv = _exchanged(replica, change)
    words = [f"{name} {value}" for name, value in change.items()]
    if eager:
        flags, argv, words = (*flags, Flag(_EAGER, None, _WHY)), (*argv, _EAGER), [*words, _EAGER]
    return Smaller(replace(replica, flags=flags, argv=argv), " ".join(words))


def _share(share: float) -> str:
    return f"{min(max(share, _LEAST_SHARE), _MOST_SHARE):.2g}"


def _exchanged(replica: Replica, change: dict[str, str]) -> tuple[str, ...]:
    argv = list(replica.argv)
    for flag in replica.flags:
        if flag.name in change:
            argv[_place(argv, flag) + 1] = change[flag.name]
    return tuple(argv)


def _place(argv: list[str], flag: Flag) -> int:
    return next(
        n for n, word in enumerate(argv[:-1]) if word == flag.name and argv[n + 1] == flag.value
    )
