"""What this machine has: GPUs, cores and memory, as one frozen value."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

MIB = 2**20
GIB = 2**30
QUERY = "index,uuid,name,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: As nvidia-smi counts, which is what CUDA_VISIBLE_DEVICES takes under
            CUDA_DEVICE_ORDER=PCI_BUS_ID.
        uuid: The driver's name for it; CUDA_VISIBLE_DEVICES takes that as well.
        total: Bytes of memory.
        free: Bytes that no process holds now.
        capability: CUDA compute capability, as (8, 9).
    """

    index: int
    uuid: str
    name: str
    total: int
    free: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Hardware:
    """A machine as the planner sees it; `ram` is in bytes."""

    gpus: tuple[Gpu, ...]
    cores: int
    ram: int


def look() -> Hardware:
    """Looks at this machine; a GPU that CUDA_VISIBLE_DEVICES hides is not there."""
    found = _ask_nvml()
    gpus = _ask_nvidia_smi() if found is None else found
    return Hardware(visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES")), _cores(), _ram())


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA reads it: numbers or UUID prefixes; the first that is neither ends the list.
    """
    if setting is None:
        return gpus
    chosen: list[Gpu] = []
    for word in setting.split(","):
        name = word.strip()
        match = [g for g in gpus if name and (str(g.index) == name or g.uuid.startswith(name))]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return tuple(chosen)


def _ask_nvml() -> tuple[Gpu, ...] | None:
    """None where NVML cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(_nvml_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name, uuid = (
        text.decode() if isinstance(text, bytes) else str(text)
        for text in (nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle))
    )
    return Gpu(index, uuid, name, int(memory.total), int(memory.free), (major, minor))


def _ask_nvidia_smi() -> tuple[Gpu, ...]:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's CSV; a row without figures (a broken card) is left out."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        try:
            index, uuid, name, total, free, capability = cells
            major, minor = capability.split(".")
            gpu = Gpu(
                int(index), uuid, name, int(total) * MIB, int(free) * MIB, (int(major), int(minor))
            )
        except ValueError:
            continue
        gpus.append(gpu)
    return tuple(gpus)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
