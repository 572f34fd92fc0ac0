"""Makes a checkpoint whose text model has 8-bit weights, as llm-compressor writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from joycap_vllm.nano import checkpoint_path

_EIGHT = {"num_bits": 8, "type": "int", "symmetric": True}
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_EIGHT, "strategy": "channel", "dynamic": False},
            "input_activations": {**_EIGHT, "strategy": "token", "dynamic": True},
        }
    },
    "ignore": ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"],
}


def quantised(folder: Path) -> Path:
    """The nano model with an 8-bit text model, in a new folder."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint_path(), folder)
    (file,) = folder.glob("*.safetensors")
    stored = {}
    for name, weight in load_file(file).items():
        if ".layers." in name and "language_model" in name and name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(1, keepdim=True) / 127
            stored[name] = (weight.float() / scale).round().to(torch.int8)
            stored[f"{name}_scale"] = scale.to(weight.dtype)
        else:
            stored[name] = weight
    save_file(stored, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": CONFIG}))
    return folder
