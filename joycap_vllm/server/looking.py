"""Looks at this machine: what its drivers, its kernel and its environment say of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from joycap_vllm.server import amd, nvidia
from joycap_vllm.server.hardware import Gpu, Hardware


def look(environ: Mapping[str, str] | None = None) -> Hardware:
    """Looks at this machine; GPUs that CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES) hides are left
    out."""
    environ = os.environ if environ is None else environ
    found, setting = nvidia.ask(), environ.get("CUDA_VISIBLE_DEVICES")
    if not found.gpus and not found.ill:
        theirs = amd.ask()
        if theirs.gpus:
            found, setting = theirs, environ.get("HIP_VISIBLE_DEVICES", setting)
    gpus = visible(found.gpus, setting)
    weights = weights_folder(environ)
    return Hardware(
        gpus=gpus,
        cores=_cores(),
        ram=_ram(),
        driver=found.driver,
        cuda=found.cuda,
        ram_free=_ram_free(),
        weights=weights,
        disk_free=_disk_free(weights),
        hidden=tuple(f"{g.name} ({g.index})" for g in found.gpus if g not in gpus),
        ill=found.ill,
    )


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA reads it: numbers or UUID prefixes; the first that is neither ends the list. Of a GPU
    under MIG, CUDA shows a process one slice only; here its number stands for all of them, since
    each server gets a slice of its own.
    """
    if setting is None:
        return gpus
    chosen: list[Gpu] = []
    for word in setting.split(","):
        name = word.strip()
        match = [g for g in gpus if name and (str(g.index) == name or g.uuid.startswith(name))]
        if not match or len({gpu.index for gpu in match}) > 1:
            break
        chosen += [gpu for gpu in match if gpu not in chosen]
    return tuple(chosen)


def hub_home(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps its files, by its own variables."""
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser()


def weights_folder(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps the weights that it loads down."""
    hub = environ.get("HF_HUB_CACHE")
    return Path(hub).expanduser() if hub else hub_home(environ) / "hub"


def _disk_free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram() -> int:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    return min([whole, *_container_limits()])


def _container_limits() -> list[int]:
    """What a container may have, where this is one and it is told."""
    limits = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text()))
    return limits


def _ram_free() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path("/proc/meminfo").read_text()
        return int(told.partition("MemAvailable:")[2].split()[0]) * 1024
    return None
