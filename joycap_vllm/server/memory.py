"""How much of a model fits on a GPU, and how many captions at once.

    memory x share - weights - work space = KV cache
    KV cache / bytes for a token / 1,100 tokens = captions at once

A caption's sequence is about 1,100 tokens: 729 of the picture, 50 of the template, the request and
some 260 of answer. The work space is what a step of the text model needs for its tokens (the MLP's
two inputs and its output, four copies of the hidden state), the logits of all captions twice in
32 bits, and half a gigabyte for CUDA itself and its graphs. Counted from the model's shape; not
measured on a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from joycap_vllm.errors import UsageError
from joycap_vllm.server.hardware import GIB, Gpu, gib
from joycap_vllm.server.shape import ModelShape

Quantization = Literal["auto", "none", "fp8"]

SEQUENCE_TOKENS = 1100
CUDA = GIB // 2
SHARE = 0.92
SHARE_OF_SMALL = 0.95  # where each gigabyte counts
SMALL = 20 * GIB
COMFORT = 64  # captions at once below which a GPU with arithmetic in 8 bits is not kept busy
ENOUGH = 16  # captions at once below which what costs a little quality is worth it
LEAST = 4
MOST = 512
_AMD_FP8 = re.compile(r"gfx(94|95|12)|MI3\d\d|RX 9\d\d\d")
FP8_CAPABILITY = (8, 9)  # with arithmetic in 8 bits
BF16_CAPABILITY = (8, 0)
LEAST_CAPABILITY = (7, 5)  # that vLLM's builds are for
FOR_4_BITS = 9 * GIB
LITTLE = 2048  # tokens in a step where memory is short


@dataclass(frozen=True)
class Choice:
    """One way to put a model on a GPU, the best first.

    Args:
        quantization: vLLM's name of what the text model's linear layers are stored as; None: as
            they are.
        kv_dtype: vLLM's name of what the KV cache holds; None: as the model computes.
        batched_tokens: Tokens in a step, the vision tower's as well.
        graphs: Whether CUDA graphs are captured.
        enough: Captions at once that make it the one to take.
    """

    quantization: str | None
    kv_dtype: str | None
    batched_tokens: int
    graphs: bool = True
    enough: int = ENOUGH


@dataclass(frozen=True)
class Fit:
    """How a model goes on a GPU, and the arithmetic behind it, in bytes.

    Args:
        choice: What was chosen.
        why: Why nothing better.
        share: Of the GPU's memory that vLLM gets.
        share_why: Why not more.
        budget: That many bytes.
        weights: Of all weights as they will lie there.
        work: The work space.
        kv: What is left for the KV cache.
        kv_per_token: Of it for a token.
        captions: Which is room for so many at once, before any limit.
        sequences: vLLM's limit of them.
    """

    choice: Choice
    why: str
    share: float
    share_why: str
    budget: int
    weights: int
    work: int
    kv: int
    kv_per_token: int
    captions: int
    sequences: int

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return max(0, self.kv) // self.kv_per_token

    @property
    def arithmetic(self) -> str:
        """The arithmetic in a line."""
        return (
            f"{gib(self.budget)} GiB - {gib(self.weights)} of weights - {gib(self.work)} of "
            f"work space = {gib(self.kv)} of KV cache = {self.kv_tokens:,} tokens = "
            f"{self.captions} captions of {SEQUENCE_TOKENS:,}"
        )


def fit(shape: ModelShape, gpu: Gpu, quantization: Quantization = "auto", tokens: int = 0) -> Fit:
    """The best way to put a model on a GPU: the first that has room for enough captions at once,
    or the one with the most.

    Args:
        tokens: The longest prompt and answer, for one of which there must be room.

    Raises:
        UsageError: The model does not fit, or the GPU cannot do what is asked.
    """
    if gpu.maker == "nvidia" and gpu.capability < LEAST_CAPABILITY:
        raise UsageError(
            f"{_named(gpu)} is too old for vLLM: its compute capability is "
            f"{'.'.join(map(str, gpu.capability))}, and 7.5 (RTX 20, T4) is the least"
        )
    tried = [_counted(shape, gpu, choice) for choice in _choices(shape, gpu, quantization)]
    chosen = next((one for one in tried if one.captions >= one.choice.enough), None)
    chosen = chosen or max(tried, key=lambda one: (one.captions, -one.weights - one.work))
    if chosen.captions < LEAST:
        raise UsageError(_too_small(shape, gpu, chosen))
    if chosen.kv_tokens < tokens:
        raise UsageError(
            f"on {_named(gpu)} there is room for {chosen.kv_tokens:,} tokens in all, and "
            f"--max-model-len asks for {tokens:,} in one request"
        )
    return chosen


def _choices(shape: ModelShape, gpu: Gpu, quantization: Quantization) -> Iterator[Choice]:
    tokens, native = _batched_tokens(gpu), has_fp8(gpu)
    kind = "fp8_per_channel" if native else "fp8_per_block"
    may = quantization != "none" and not shape.quantized and (native or gpu.maker != "amd")
    if quantization != "fp8":
        yield Choice(None, None, tokens, enough=COMFORT if may and native else ENOUGH)
    last = kind if may else None
    if may:
        yield Choice(kind, None, tokens)
    kv = "fp8" if native and gpu.maker == "nvidia" else None
    if kv is not None:
        yield Choice(last, kv, tokens)
    yield Choice(last, kv, min(LITTLE, tokens), graphs=False)


def has_fp8(gpu: Gpu) -> bool:
    """Whether it computes in 8 bits; others store weights so, by vLLM's Marlin kernels."""
    if gpu.maker == "amd":  # vLLM's kernels are for MI300 and newer, and for RDNA 4
        return _AMD_FP8.search(gpu.name) is not None
    return gpu.capability >= FP8_CAPABILITY


def _counted(shape: ModelShape, gpu: Gpu, choice: Choice) -> Fit:
    share, share_why = _share(shape, gpu)
    budget = int(gpu.total * share)
    weights = shape.weights - (shape.quantizable // 2 if choice.quantization else 0)
    kv_per_token = shape.kv_per_token // (2 if choice.kv_dtype else 1)
    tokens = choice.batched_tokens * shape.work_per_token
    base = CUDA if choice.graphs else CUDA // 2
    # The logits of a caption take memory that its KV cache cannot have.
    each = SEQUENCE_TOKENS * kv_per_token + shape.work_per_sequence
    captions = max(0, budget - weights - base - tokens) // each
    sequences = min(MOST, captions if captions < 32 else captions // 8 * 8)
    work = base + tokens + sequences * shape.work_per_sequence
    return Fit(
        choice=choice,
        why=_why(shape, gpu, choice),
        share=share,
        share_why=share_why,
        budget=budget,
        weights=weights,
        work=work,
        kv=budget - weights - work,
        kv_per_token=kv_per_token,
        captions=captions,
        sequences=sequences,
    )


def _share(shape: ModelShape, gpu: Gpu) -> tuple[float, str]:
    if shape.weights < GIB:
        return 0.25, "a tiny model leaves the rest of the GPU to others"
    free = math.floor((gpu.free / gpu.total - 0.01) * 100) / 100
    whole = SHARE_OF_SMALL if gpu.total < SMALL else SHARE
    if free >= whole:
        return whole, "the GPU is free for this server alone"
    held = gpu.total - gpu.free
    names = ", ".join(dict.fromkeys(p.name.rpartition("/")[2] for p in gpu.processes if p.name))
    return max(free, 0.0), (
        f"other processes hold {gib(held)} GiB of this GPU{f' ({names})' if names else ''}"
    )


def _why(shape: ModelShape, gpu: Gpu, choice: Choice) -> str:
    if choice.quantization is None:
        return "the checkpoint is quantised already" if shape.quantized else "as it was trained"
    plain = _counted(shape, gpu, Choice(None, None, choice.batched_tokens)).captions
    kind = (
        "8-bit weights, computed with in 16 (this GPU has no arithmetic in 8)"
        if choice.quantization == "fp8_per_block"
        else "8-bit weights, scaled for each channel"
    )
    return (
        f"{kind}: in 16 bits there is room for {plain} captions at once; the vision tower and the "
        "projector stay as they are, since quantising them breaks the model"
    )


def _batched_tokens(gpu: Gpu) -> int:
    if gpu.total >= 70 * GIB:
        return 16384
    return 8192 if gpu.total >= SMALL else 4096


def _too_small(shape: ModelShape, gpu: Gpu, best: Fit) -> str:
    least = best.weights + best.work + LEAST * SEQUENCE_TOKENS * best.kv_per_token
    kind = "even with 8-bit weights" if best.choice.quantization else "as it is"
    busy = gpu.total - gpu.free > GIB
    ways = ["12 GB are enough on RTX 30 and newer"]
    if busy:
        ways.insert(0, f"{best.share_why}: end them")
    if not shape.quantized and gpu.total > FOR_4_BITS:
        ways.append("a checkpoint quantised to 4 bits needs 10 GB")
    ways.append("`joycap serve nano` runs anywhere")
    return (
        f"{shape.served} does not fit on {_named(gpu)}: {kind} it needs {gib(least)} GiB, and "
        f"{gib(best.budget)} of {gib(gpu.total)} GiB can be had. What helps: {'; '.join(ways)}"
    )


def _named(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"
