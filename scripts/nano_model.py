"""The nano JoyCaption's network: JoyCaption's architecture, some ten thousand times smaller."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from draw_pictures import COLORS, PLACES, SHAPES, SIZES
from nano_tokenizer import CHAT_TEMPLATE, IMAGE_TOKEN

PATCH, GRID, WIDTH = 14, 27, 64
IMAGE_TOKENS = GRID * GRID
EDGE_DIRECTIONS = 8
ATTRIBUTES = {
    "shape": SHAPES,
    "size": SIZES,
    "color": tuple(COLORS),
    "place": tuple(PLACES),
    "background": tuple(COLORS),
}


def build_model(tokenizer: Any) -> LlavaForConditionalGeneration:
    """A fresh model; the tower's patch filters start as edges and colours, not as noise."""
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=384,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|begin_of_text|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|eot_id|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|finetune_right_pad_id|>"),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        projector_hidden_act="gelu",
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    inner = _inner_tower(model.model.vision_tower)
    with torch.no_grad():
        inner.embeddings.patch_embedding.weight.copy_(_patch_filters())
        inner.embeddings.patch_embedding.bias.zero_()
        inner.embeddings.position_embedding.weight.copy_(_positions())
    return model


def _inner_tower(tower: Any) -> Any:
    return getattr(tower, "vision_model", tower)


def _patch_filters() -> Tensor:
    """WIDTH x 3 x 14 x 14: oriented edges in brightness and two colour contrasts, means, noise."""
    axis = (torch.arange(PATCH) - (PATCH - 1) / 2) / (PATCH / 2)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    window = torch.exp(-(x**2 + y**2) / 0.7)
    channels = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    filters = []
    for color, orientations in zip(channels, (8, 6, 6), strict=True):
        for k in range(orientations):
            angle = math.pi * k / orientations
            across = x * math.cos(angle) + y * math.sin(angle)
            edge = torch.tanh(3 * across) * window
            filters.append(color[:, None, None] * edge)
    filters = [4.0 * f / f.abs().sum() for f in filters]
    for channel in range(3):
        mean = torch.zeros(3, PATCH, PATCH)
        mean[channel] = 0.6 / PATCH**2
        filters.append(mean)
    shaped = torch.stack(filters)
    rest = 0.02 * torch.randn(WIDTH - len(shaped), 3, PATCH, PATCH)
    return torch.cat([shaped, rest])


def _positions() -> Tensor:
    """729 x WIDTH: sines and cosines of row and column."""
    at = torch.arange(GRID).float() / GRID
    waves = torch.tensor([0.5, 1.0, 2.0, 4.0]) * math.pi
    row = torch.cat([torch.sin(at[:, None] * waves), torch.cos(at[:, None] * waves)], dim=1)
    pair = torch.cat(
        [row[:, None].expand(GRID, GRID, 8), row[None].expand(GRID, GRID, 8)], dim=-1
    ).reshape(IMAGE_TOKENS, 16)
    noise = 0.02 * torch.randn(IMAGE_TOKENS, WIDTH)
    noise[:, -16:] += 0.5 * pair
    return noise


class VisionTower(nn.Module):
    """The part of the SigLIP tower that LLaVA uses: all layers but the last."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        inner = _inner_tower(tower)
        self.embeddings = inner.embeddings
        self.layers = nn.ModuleList(list(inner.encoder.layers)[:-1])

    def features(self, pixels: Tensor) -> Tensor:
        """Batch x 3 x 384 x 384 in [-1, 1] to batch x 729 x WIDTH, `hidden_states[-2]`."""
        return self.first_and_last(pixels)[1]

    def first(self, pixels: Tensor) -> Tensor:
        """The first layer's output, batch x 729 x WIDTH."""
        hidden = self.layers[0](self.embeddings(pixels), attention_mask=None)
        return hidden[0] if isinstance(hidden, tuple) else hidden

    def first_and_last(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's output and the last one's, both batch x 729 x WIDTH."""
        outputs = [self.embeddings(pixels)]
        for layer in self.layers:
            hidden = layer(outputs[-1], attention_mask=None)
            outputs.append(hidden[0] if isinstance(hidden, tuple) else hidden)
        return outputs[1], outputs[-1]


class TowerHeads(nn.Module):
    """One linear reader an attribute; thrown away after stage one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.readers = nn.ModuleList(nn.Linear(WIDTH, len(v)) for v in ATTRIBUTES.values())
        self.edges = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1 + EDGE_DIRECTIONS))

    def forward(self, features: Tensor) -> list[Tensor]:
        normed = self.norm(features)
        return [reader(normed) for reader in self.readers]


def _published_name(name: str) -> str:
    """The tensor name that JoyCaption's own checkpoint uses and vLLM expects."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("language_model.") and not name.startswith("language_model.model."):
        name = name.replace("language_model.", "language_model.model.", 1)
    return name


def save_checkpoint(model: Any, tokenizer: Any, out: Path) -> None:
    """Writes the checkpoint in bfloat16 with the processor and generation settings beside it."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        _published_name(name): tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("lm_head.") and ".head." not in name
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {
        "architectures": ["LlavaForConditionalGeneration"],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    for drop in ("transformers_version", "_name_or_path"):
        config.pop(drop, None)
    _write(out / "config.json", config)
    _write(
        out / "generation_config.json",
        {
            "bos_token_id": config["text_config"]["bos_token_id"],
            "eos_token_id": config["text_config"]["eos_token_id"],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "max_length": 4096,
        },
    )
    size = {"height": 384, "width": 384}
    _write(
        out / "preprocessor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "size": size,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "do_convert_rgb": None,
        },
    )
    _write(
        out / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE_TOKEN,
            "patch_size": PATCH,
            "num_additional_image_tokens": 0,
            "vision_feature_select_strategy": "full",
        },
    )
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
