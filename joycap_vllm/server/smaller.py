"""What helps a server that ran out of memory while it started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from joycap_vllm.server.raw import named
from joycap_vllm.server.values import Flag, Replica

# vLLM's and PyTorch's words for it, at loading, profiling, and when the KV cache is laid out.
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|No available memory for the cache blocks"
    r"|less than desired GPU memory utilization|larger than the (?:available KV cache|maximum)"
    r"|KV cache is needed, which is larger",
    re.IGNORECASE,
)
_LEAST_TOKENS = 2048
_LEAST_SHARE = 0.3
_LESS = 0.06  # of the GPU's memory: what CUDA, a desktop or a slow free may hold
_WHY = "less than planned: it ran out of memory with more"


@dataclass(frozen=True)
class Smaller:
    """A replica that asks for less, and the change in words."""

    replica: Replica
    words: str


def is_memory(error: str) -> bool:
    """Whether a server's last words say that memory was short."""
    return _MEMORY.search(error) is not None


def smaller(replica: Replica, raw: tuple[str, ...] = ()) -> Smaller | None:
    """The same server with half as many captions and tokens in a step, and a smaller share of the
    memory; None where nothing is left to take away.

    Args:
        replica: As it was started.
        raw: The user's own flags, which are not touched.
    """
    own = named(raw)
    change: dict[str, str | None] = {}
    values = {flag.name: flag.value for flag in replica.flags if flag.name not in own}
    if isinstance(tokens := values.get("--max-num-batched-tokens"), str):
        change["--max-num-batched-tokens"] = str(max(int(tokens) // 2, _LEAST_TOKENS))
    if isinstance(sequences := values.get("--max-num-seqs"), str):
        change["--max-num-seqs"] = str(max(int(sequences) // 2, 1))
    if isinstance(share := values.get("--gpu-memory-utilization"), str):
        change["--gpu-memory-utilization"] = f"{max(float(share) - _LESS, _LEAST_SHARE):.2g}"
    change = {name: value for name, value in change.items() if value != values[name]}
    if not change:
        return None
    words = " ".join(f"{name} {value}" for name, value in change.items())
    flags = tuple(
        replace(flag, value=change[flag.name], why=_WHY) if flag.name in change else flag
        for flag in replica.flags
    )
    return Smaller(replace(replica, flags=flags, argv=_exchanged(replica, change)), words)


def _exchanged(replica: Replica, change: Mapping[str, str | None]) -> tuple[str, ...]:
    argv = list(replica.argv)
    for flag in replica.flags:
        if flag.name in change:
            argv[_place(argv, flag) + 1] = str(change[flag.name])
    return tuple(argv)


def _place(argv: list[str], flag: Flag) -> int:
    return next(
        n for n, word in enumerate(argv[:-1]) if word == flag.name and argv[n + 1] == flag.value
    )
