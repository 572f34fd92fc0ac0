"""What this machine has: GPUs, cores, memory and disk, as one frozen value."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIB = 2**20
GIB = 2**30

Maker = Literal["nvidia", "amd"]


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU.

    Attributes:
        pid: Its number; 0 where the driver does not tell, as in containers.
        name: Its program; empty where it cannot be told.
        held: Bytes; None where the driver does not tell.
    """

    pid: int
    name: str = ""
    held: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one slice of a GPU under MIG.

    Attributes:
        index: As the maker's own tool counts, which is what CUDA_VISIBLE_DEVICES takes under
            CUDA_DEVICE_ORDER=PCI_BUS_ID; slices of a GPU share its number.
        uuid: The driver's name for it; CUDA_VISIBLE_DEVICES takes that as well, and nothing else
            for slices.
        total: Bytes of memory.
        free: Bytes that no process holds now.
        capability: CUDA compute capability, as (8, 9); (0, 0) for other makers' GPUs.
        maker: Whose it is.
        slice: MIG's name for the slice, as "1g.10gb"; empty for a whole GPU.
        nvlink: Whether a link to another GPU is up.
        processes: Who holds memory of it now.
    """

    index: int
    uuid: str
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    maker: Maker = "nvidia"
    slice: str = ""
    nvlink: bool = False
    processes: tuple[GpuProcess, ...] = ()

    @property
    def selector(self) -> str:
        """What makes a process see this GPU alone, in CUDA_VISIBLE_DEVICES or its like."""
        return self.uuid if self.slice else str(self.index)


@dataclass(frozen=True)
class Hardware:
    """A machine as the planner sees it.

    Attributes:
        gpus: Those that may be used, in the order in which they are used.
        cores: CPU cores that this process may use.
        ram: Bytes of memory.
        driver: The GPU driver's version, as "580.65.06"; empty where there is none.
        cuda: The newest CUDA that the driver bears, as (13, 0); None where unknown.
        ram_free: Bytes of memory that a new process could have; None where unknown.
        weights: The folder to which weights are loaded down.
        disk_free: Bytes free there; None where unknown.
        hidden: Names of GPUs that the environment hides.
        ill: What is wrong with GPUs that were found and cannot be used.
    """

    gpus: tuple[Gpu, ...]
    cores: int
    ram: int
    driver: str = ""
    cuda: tuple[int, int] | None = None
    ram_free: int | None = None
    weights: Path | None = None
    disk_free: int | None = None
    hidden: tuple[str, ...] = ()
    ill: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a maker's driver says."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] | None = None
    ill: tuple[str, ...] = ()


def look(environ: Mapping[str, str] | None = None) -> Hardware:
    """Looks at this machine; GPUs that CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES) hides are left
    out."""
    from joycap_vllm.server import amd, nvidia

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


def gib(size: int) -> str:
    """Bytes as GiB, as "23.5"."""
    return f"{size / GIB:.1f}"


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
