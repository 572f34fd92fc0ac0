"""Machines as the planner sees them, made by hand."""

from __future__ import annotations

from pathlib import Path

from joycap_vllm.server.command import elsewhere
from joycap_vllm.server.hardware import GIB, Gpu, GpuProcess, Hardware
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import JOYCAPTION
from joycap_vllm.server.values import Plan, ServeOptions

PLANS = Path(__file__).with_name("plans")

RTX_4060 = ("NVIDIA GeForce RTX 4060", 7.99, (8, 9))
RTX_3060 = ("NVIDIA GeForce RTX 3060", 12.0, (8, 6))
RTX_4070 = ("NVIDIA GeForce RTX 4070", 11.99, (8, 9))
RTX_4080 = ("NVIDIA GeForce RTX 4080", 15.99, (8, 9))
RTX_3090 = ("NVIDIA GeForce RTX 3090", 24.0, (8, 6))
RTX_4090 = ("NVIDIA GeForce RTX 4090", 23.99, (8, 9))
RTX_5090 = ("NVIDIA GeForce RTX 5090", 31.84, (12, 0))
T4 = ("Tesla T4", 14.58, (7, 5))
L4 = ("NVIDIA L4", 22.49, (8, 9))
A10 = ("NVIDIA A10", 22.49, (8, 6))
L40S = ("NVIDIA L40S", 44.99, (8, 9))
A100_40 = ("NVIDIA A100-SXM4-40GB", 39.5, (8, 0))
A100_80 = ("NVIDIA A100-SXM4-80GB", 80.0, (8, 0))
H100 = ("NVIDIA H100 80GB HBM3", 79.6, (9, 0))
H200 = ("NVIDIA H200", 139.8, (9, 0))

Card = tuple[str, float, tuple[int, int]]


def machine(*gpus: Card, ram: float = 64) -> Hardware:
    """A machine with GPUs given as (name, GiB, compute capability)."""
    made = tuple(
        Gpu(index, f"GPU-{index}", name, int(size * GIB), int(size * GIB), capability)
        for index, (name, size, capability) in enumerate(gpus)
    )
    return Hardware(made, 16, int(ram * GIB))


def mig() -> Hardware:
    """An H100 cut into two halves."""
    halves = tuple(
        Gpu(0, f"MIG-{n}", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40 * GIB, 40 * GIB, (9, 0),
            slice="3g.40gb")
        for n in "ab"
    )  # fmt: skip
    return Hardware(halves, 16, 64 * GIB)


def shared() -> Hardware:
    """A 4090 on which an image generator holds half of the memory."""
    comfy = GpuProcess(4711, "/usr/bin/python3.12", 9 * GIB)
    name, size, capability = RTX_4090
    gpu = Gpu(0, "GPU-0", name, int(size * GIB), int(14.2 * GIB), capability, processes=(comfy,))
    return Hardware((gpu,), 16, 64 * GIB)


def mi300x() -> Hardware:
    """AMD's largest of its year."""
    gpu = Gpu(0, "1", "AMD Instinct MI300X", 192 * GIB, 191 * GIB, (0, 0), maker="amd")
    return Hardware((gpu,), 64, 512 * GIB)


MACHINES: dict[str, Hardware] = {
    "none": machine(),
    "rtx-4060-8": machine(RTX_4060),
    "rtx-3060-12": machine(RTX_3060),
    "rtx-4070-12": machine(RTX_4070),
    "rtx-4080-16": machine(RTX_4080),
    "t4-16": machine(T4),
    "rtx-3090-24": machine(RTX_3090),
    "rtx-4090-24": machine(RTX_4090),
    "rtx-4090-24-shared": shared(),
    "rtx-5090-32": machine(RTX_5090),
    "l4-24": machine(L4),
    "a10-24": machine(A10),
    "l40s-48": machine(L40S),
    "a100-40": machine(A100_40),
    "a100-80": machine(A100_80),
    "h100-80": machine(H100),
    "h200-141": machine(H200),
    "h100-80-by-8": machine(*[H100] * 8, ram=1024),
    "h100-in-halves": mig(),
    "mixed-8-24-24": machine(RTX_4060, RTX_4090, RTX_3090),
    "mi300x-192": mi300x(),
}


def plan_for_machine(name: str) -> Plan:
    """What `joycap serve` would do there with the release of vLLM that it is made for.

    Raises:
        UsageError: Nothing: the model does not fit.
    """
    return make_plan(MACHINES[name], elsewhere(), JOYCAPTION, ServeOptions(), environ={})
