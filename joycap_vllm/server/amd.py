"""AMD's GPUs, as rocm-smi tells of them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from joycap_vllm.server.hardware import GIB, Found, Gpu

_SMI_SECONDS = 30
_SMALLEST = 4 * GIB  # what a processor's own graphics call their memory is less


def ask() -> Found:
    """What ROCm says; nothing where there is none."""
    command = ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion"]
    try:
        done = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        )
        told = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return Found()
    return read(told) if isinstance(told, dict) else Found()


def read(told: dict[str, Any]) -> Found:
    """The GPUs of rocm-smi's JSON, which has an object for each card and one for the system."""
    gpus = []
    for card, facts in told.items():
        number = card.removeprefix("card")
        if not number.isdecimal() or not isinstance(facts, dict):
            continue
        try:
            total = int(facts["VRAM Total Memory (B)"])
            used = int(facts.get("VRAM Total Used Memory (B)", 0))
        except (KeyError, ValueError):
            continue
        if total >= _SMALLEST:
            name = facts.get("Card Series") or facts.get("Card series") or "AMD GPU"
            kind = facts.get("GFX Version")
            gpus.append(
                Gpu(
                    index=int(number),
                    uuid=str(facts.get("GUID", "")),
                    name=f"{name} ({kind})" if kind else str(name),
                    total=total,
                    free=total - used,
                    capability=(0, 0),
                    maker="amd",
                )
            )
    system = told.get("system", {})
    driver = system.get("Driver version", "") if isinstance(system, dict) else ""
    return Found(tuple(gpus), str(driver))
