"""What a machine has, GPUs, cores, memory and disk, as one frozen value."""

from __future__ import annotations

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


def gib(size: int) -> str:
    """Bytes as GiB, as "23.5"."""
    return f"{size / GIB:.1f}"
