"""NVIDIA's GPUs, as NVML tells of them, or else nvidia-smi."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from joycap_vllm.server.hardware import MIB, Found, Gpu, GpuProcess

QUERY = "index,uuid,name,memory.total,memory.reserved,memory.free,compute_cap"
_LINKS = 18  # NVLinks that a GPU may have
_SMI_SECONDS = 30


def ask() -> Found:
    """What the driver says; nothing where there is none."""
    try:
        import pynvml
    except ImportError:
        return _by_smi()
    return by_nvml(pynvml) or _by_smi()


def by_nvml(nvml: Any) -> Found | None:
    """What NVML says; None where it cannot be asked.

    Args:
        nvml: The module `pynvml` of nvidia-ml-py.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        count = nvml.nvmlDeviceGetCount()
        gpus: list[Gpu] = []
        ill: list[str] = []
        for index in range(count):
            try:
                gpus += _devices(nvml, index)
            except nvml.NVMLError as error:
                ill.append(f"GPU {index}: {error}")
        return Found(
            tuple(gpus), _text(_told(nvml, "SystemGetDriverVersion")), _cuda(nvml), (*ill,)
        )
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _devices(nvml: Any, index: int) -> Iterator[Gpu]:
    """A GPU, or its slices where it is cut into such."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    mode = _told(nvml, "DeviceGetMigMode", handle)
    if not mode or not mode[0]:
        yield _gpu(nvml, index, handle, handle)
        return
    for number in range(_told(nvml, "DeviceGetMaxMigDeviceCount", handle) or 0):
        piece = _told(nvml, "DeviceGetMigDeviceHandleByIndex", handle, number)
        if piece is not None:
            yield _gpu(nvml, index, handle, piece)


def _gpu(nvml: Any, index: int, whole: Any, handle: Any) -> Gpu:
    memory = _memory(nvml, handle)
    name = _text(nvml.nvmlDeviceGetName(handle))
    sliced = handle is not whole
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=name,
        total=int(memory.total) - int(getattr(memory, "reserved", 0)),
        free=int(memory.free),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(whole)),
        slice=name.rpartition("MIG ")[2] if sliced else "",
        nvlink=not sliced and any(_links(nvml, whole)),
        processes=tuple(_processes(nvml, handle)),
    )


def _memory(nvml: Any, handle: Any) -> Any:
    """Of the newer kind where there is one: it tells what the driver keeps, which neither
    PyTorch nor vLLM count."""
    newer = getattr(nvml, "nvmlMemory_v2", None)
    told = newer and _told(nvml, "DeviceGetMemoryInfo", handle, newer)
    return told or nvml.nvmlDeviceGetMemoryInfo(handle)


def _links(nvml: Any, handle: Any) -> Iterator[bool]:
    for link in range(_LINKS):
        state = _told(nvml, "DeviceGetNvLinkState", handle, link)
        if state is None:  # the GPU has no more
            return
        yield bool(state)


def _processes(nvml: Any, handle: Any) -> Iterator[GpuProcess]:
    for process in _told(nvml, "DeviceGetComputeRunningProcesses", handle) or ():
        name = _text(_told(nvml, "SystemGetProcessName", process.pid))
        held = process.usedGpuMemory
        yield GpuProcess(int(process.pid), name, None if held is None else int(held))


def _cuda(nvml: Any) -> tuple[int, int] | None:
    version = _told(nvml, "SystemGetCudaDriverVersion_v2")
    return None if version is None else (version // 1000, version % 1000 // 10)


def _told(nvml: Any, what: str, *about: Any) -> Any:
    """An answer that a driver may not have; None then."""
    with contextlib.suppress(nvml.NVMLError):
        return getattr(nvml, f"nvml{what}")(*about)
    return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _by_smi() -> Found:
    return Found(
        parse_smi(_smi(f"--query-gpu={QUERY}")),
        _smi("--query-gpu=driver_version").partition("\n")[0].strip(),
    )


def _smi(query: str) -> str:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's CSV; a row without figures (a broken card) is left out."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        try:
            index, uuid, name, total, reserved, free, capability = cells
            kept = int(reserved) if reserved.isdecimal() else 0  # older drivers: "[N/A]"
            major, minor = capability.split(".")
            gpu = Gpu(
                int(index), uuid, name, (int(total) - kept) * MIB, int(free) * MIB,
                (int(major), int(minor)),
            )  # fmt: skip
        except ValueError:
            continue
        gpus.append(gpu)
    return tuple(gpus)
