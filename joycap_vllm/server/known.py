"""Machines by the names of their GPUs, to plan for one that is not at hand."""

from __future__ import annotations

import re

from joycap_vllm.errors import UsageError
from joycap_vllm.server.hardware import GIB, Gpu, Hardware

Card = tuple[str, float, tuple[int, int]]

# The driver's name, GiB of memory as PyTorch tells it in its errors (the driver's total is more, by
# what the driver keeps for itself), compute capability.
CARDS: dict[str, Card] = {
    "rtx-4060": ("NVIDIA GeForce RTX 4060", 7.63, (8, 9)),
    "rtx-3060": ("NVIDIA GeForce RTX 3060", 11.76, (8, 6)),
    "rtx-4070": ("NVIDIA GeForce RTX 4070", 11.72, (8, 9)),
    "rtx-4080": ("NVIDIA GeForce RTX 4080", 15.7, (8, 9)),
    "rtx-3090": ("NVIDIA GeForce RTX 3090", 23.68, (8, 6)),
    "rtx-4090": ("NVIDIA GeForce RTX 4090", 23.64, (8, 9)),
    "rtx-5090": ("NVIDIA GeForce RTX 5090", 31.36, (12, 0)),
    "t4": ("Tesla T4", 14.58, (7, 5)),
    "l4": ("NVIDIA L4", 22.03, (8, 9)),
    "a10": ("NVIDIA A10", 22.06, (8, 6)),
    "l40s": ("NVIDIA L40S", 44.39, (8, 9)),
    "a100-40": ("NVIDIA A100-SXM4-40GB", 39.39, (8, 0)),
    "a100-80": ("NVIDIA A100-SXM4-80GB", 79.15, (8, 0)),
    "h100": ("NVIDIA H100 80GB HBM3", 79.1, (9, 0)),
    "h200": ("NVIDIA H200", 139.8, (9, 0)),
}
_CORES, _RAM = 16, 64 * GIB
_MOST = 64  # GPUs in a machine
_ONE = re.compile(r"([\w-]+?)(?:x(\d+))?")


def machine(*cards: Card, cores: int = _CORES, ram: int = _RAM) -> Hardware:
    """A machine with these GPUs, none of them in use."""
    gpus = tuple(
        Gpu(index, f"GPU-{index}", name, int(size * GIB), int(size * GIB), capability)
        for index, (name, size, capability) in enumerate(cards)
    )
    return Hardware(gpus, cores, ram)


def read_machine(text: str) -> Hardware:
    """`rtx-4090`, `h100x8` or `rtx-4090,rtx-3090` as a machine.

    Raises:
        UsageError: A GPU is not among `CARDS`.
    """
    cards: list[Card] = []
    for word in text.lower().split(","):
        match = _ONE.fullmatch(word.strip())
        if match is None or match[1] not in CARDS:
            raise UsageError(f"--machine knows {', '.join(CARDS)}, not {word.strip()!r}")
        cards += [CARDS[match[1]]] * int(match[2] or 1)
    if not 1 <= len(cards) <= _MOST:
        raise UsageError(f"--machine takes 1 to {_MOST} GPUs: {text}")
    return machine(*cards)
