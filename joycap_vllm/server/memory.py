"""How much of a model fits on a GPU, and how many captions at once.

Figures: a caption's sequence is about 1,100 tokens (729 of the picture, 50 of the template, the
request and some 260 of answer); beside weights and KV cache vLLM takes about 1.5 GiB for
activations and CUDA graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from joycap_vllm.errors import UsageError
from joycap_vllm.server.hardware import GIB, Gpu
from joycap_vllm.server.shape import ModelShape

Quantization = Literal["auto", "none", "fp8"]

SEQUENCE_TOKENS = 1100
OVERHEAD = 3 * GIB // 2
UTILIZATION = 0.92
# Below this many captions at once a GPU is not kept busy, and fp8 weights buy more of them.
COMFORT = 64
LEAST = 4
MOST = 512
FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Fit:
    """What was decided for one GPU, each with its reason."""

    fp8: bool
    fp8_why: str
    utilization: float
    utilization_why: str
    sequences: int
    sequences_why: str
    batched_tokens: int


def fit(shape: ModelShape, gpu: Gpu, quantization: Quantization = "auto") -> Fit:
    """Decides quantisation, memory share and batch size for a model on a GPU.

    Raises:
        UsageError: The model does not fit.
    """
    utilization, utilization_why = _share(shape, gpu)
    budget = int(gpu.total * utilization)
    plain = _sequences(shape, budget, shape.weights)
    halved = _sequences(shape, budget, _fp8_weights(shape))
    fp8, why = _choose(shape, gpu, quantization, plain, halved)
    possible = halved if fp8 else plain
    weights = _fp8_weights(shape) if fp8 else shape.weights
    if possible < LEAST:
        raise UsageError(_too_small(shape, gpu, budget, weights, fp8))
    sequences = min(MOST, possible if possible < 8 else possible // 8 * 8)
    sequences_why = (
        f"{_gib(budget)} GiB of memory - {_gib(weights)} of weights - {_gib(OVERHEAD)} of work "
        f"space hold {possible} captions of {SEQUENCE_TOKENS} tokens"
    )
    return Fit(
        fp8, why, utilization, utilization_why, sequences, sequences_why, _batched_tokens(gpu)
    )


def _share(shape: ModelShape, gpu: Gpu) -> tuple[float, str]:
    if shape.weights < GIB:
        return 0.25, "a tiny model leaves the rest of the GPU to others"
    free = math.floor((gpu.free / gpu.total - 0.01) * 100) / 100
    if free < UTILIZATION:
        return max(free, 0.0), f"other processes hold {_gib(gpu.total - gpu.free)} GiB of this GPU"
    return UTILIZATION, "the GPU is free for this server alone"


def _sequences(shape: ModelShape, budget: int, weights: int) -> int:
    return max(0, budget - weights - OVERHEAD) // (SEQUENCE_TOKENS * shape.kv_per_token)


def _fp8_weights(shape: ModelShape) -> int:
    return shape.weights - shape.quantizable // 2


def _choose(
    shape: ModelShape, gpu: Gpu, quantization: Quantization, plain: int, halved: int
) -> tuple[bool, str]:
    if quantization != "auto":
        return quantization == "fp8", "as asked"
    if shape.quantized:
        return False, "the checkpoint is quantised already"
    if plain >= COMFORT:
        return False, f"bf16 fits, with room for {plain} captions at once"
    if gpu.capability < FP8_CAPABILITY:
        return False, f"{gpu.name} has no fp8 arithmetic"
    return True, (
        f"in bf16 only {plain} captions at once would fit, in fp8 {halved}; the vision tower and "
        "the projector stay in bf16, since quantising them breaks the model"
    )


def _batched_tokens(gpu: Gpu) -> int:
    if gpu.total >= 70 * GIB:
        return 16384
    return 8192 if gpu.total >= 20 * GIB else 4096


def _too_small(shape: ModelShape, gpu: Gpu, budget: int, weights: int, fp8: bool) -> str:
    least = weights + OVERHEAD + LEAST * SEQUENCE_TOKENS * shape.kv_per_token
    kind = "fp8" if fp8 else "bf16"
    return (
        f"{shape.served} does not fit on GPU {gpu.index} ({gpu.name}): in {kind} it needs "
        f"{_gib(least)} GiB, and {_gib(budget)} of {_gib(gpu.total)} GiB can be had. "
        "A GPU with 16 GB and fp8 (RTX 40 and newer) or with 24 GB is enough"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
