"""What the planner must know of a model: its name to clients, its bytes, its context."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from joycap_vllm.errors import UsageError

_QUANTIZED = re.compile(r"(?i)(?<![a-z])(awq|gptq|fp8|int[48]|w[48]a(8|16)|nvfp4|4bit|8bit)")
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
DEFAULT_MODEL = "fancyfeast/llama-joycaption-beta-one-hf-llava"
NANO = "nano"


@dataclass(frozen=True)
class ModelShape:
    """A model's figures; sizes are bytes.

    Attributes:
        model: What vLLM is given: a folder, or a name on the hub.
        served: The short name that clients use.
        weights: Of all weights as stored.
        quantizable: The part of `weights` that fp8 would halve: the text model's linear layers.
        kv_per_token: Of the KV cache, for one token.
        context: The longest that the model was made for, in tokens.
        work_per_token: Of the memory that a step of the text model needs for one token.
        work_per_sequence: Likewise for the logits of one caption.
        quantized: Whether the checkpoint comes quantised already.
    """

    model: str
    served: str
    weights: int
    quantizable: int
    kv_per_token: int
    context: int
    work_per_token: int
    work_per_sequence: int
    image_tokens: int = 729
    quantized: bool = False


def work_per_token(hidden: int, mlp: int) -> int:
    """Two inputs and the output of the MLP, four copies of the hidden state, two bytes each."""
    return 2 * (3 * mlp + 4 * hidden)


def work_per_sequence(vocabulary: int) -> int:
    """The logits and what is made of them while a token is drawn, four bytes each."""
    return 2 * 4 * vocabulary


# Llama 3.1 8B: 32 layers of 218.1 M parameters in linear layers, two matrices of 128256 x 4096 for
# the vocabulary, 8 KV heads of 128; SigLIP so400m 428 M; the projector 21.5 M; two bytes each.
JOYCAPTION = ModelShape(
    model=DEFAULT_MODEL,
    served="joycaption",
    weights=2 * (32 * 218_103_808 + 2 * 128_256 * 4096 + 428_000_000 + 21_500_000),
    quantizable=2 * 32 * 218_103_808,
    kv_per_token=2 * 32 * 8 * 128 * 2,
    context=131_072,
    work_per_token=work_per_token(4096, 14336),
    work_per_sequence=work_per_sequence(128_256),
)


def shape_of(model: str) -> ModelShape:
    """The shape of a folder's checkpoint; a name on the hub is taken for JoyCaption's.

    Raises:
        UsageError: The folder is there, and holds no model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _read(folder)
    if model.startswith((".", "/", "~")):
        raise UsageError(f"no such folder: {model}")
    if not _ON_HUB.fullmatch(model):
        near = f"; did you mean {NANO}?" if get_close_matches(model.lower(), [NANO]) else ""
        raise UsageError(
            f"no model {model!r}: there is no such folder here, and a name on the hub is written "
            f"owner/name{near}"
        )
    quantized = _QUANTIZED.search(model) is not None
    return replace(JOYCAPTION, model=model, quantized=quantized)


def nano_shape(folder: Path) -> ModelShape:
    """The embedded model's shape, under its own name."""
    return replace(_read(folder), served="joycap-nano")


def _read(folder: Path) -> ModelShape:
    try:
        return _of_config(folder, json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder} holds no model: its config.json: {error}") from error


def _of_config(folder: Path, config: dict[str, Any]) -> ModelShape:
    text = config.get("text_config") or config
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    weights = sum(file.stat().st_size for file in files)
    layers, hidden = int(text.get("num_hidden_layers", 32)), int(text.get("hidden_size", 4096))
    heads = int(text.get("num_attention_heads", 32))
    kv_width = int(text.get("num_key_value_heads") or heads) * int(
        text.get("head_dim") or hidden // heads
    )
    width = int(text.get("intermediate_size", 14336))
    quantized = "quantization_config" in config or "quantization_config" in text
    return ModelShape(
        model=str(folder.resolve()),
        served="joycaption",
        weights=weights,
        quantizable=0
        if quantized
        else 2 * layers * (3 * hidden * width + 2 * hidden * (hidden + kv_width)),
        kv_per_token=2 * layers * kv_width * 2,
        context=int(text.get("max_position_embeddings", 131_072)),
        work_per_token=work_per_token(hidden, width),
        work_per_sequence=work_per_sequence(int(text.get("vocab_size", 128_256))),
        image_tokens=int(config.get("image_seq_length") or 729),
        quantized=quantized,
    )
