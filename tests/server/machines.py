"""Machines as the planner sees them, made by hand."""

from __future__ import annotations

from pathlib import Path

from joycap_vllm.server.command import elsewhere
from joycap_vllm.server.hardware import GIB, Gpu, GpuProcess, Hardware
from joycap_vllm.server.known import CARDS, machine
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import JOYCAPTION
from joycap_vllm.server.values import Plan, ServeOptions

PLANS = Path(__file__).with_name("plans")

RTX_4060 = CARDS["rtx-4060"]
RTX_3060 = CARDS["rtx-3060"]
RTX_4070 = CARDS["rtx-4070"]
RTX_4080 = CARDS["rtx-4080"]
RTX_3090 = CARDS["rtx-3090"]
RTX_4090 = CARDS["rtx-4090"]
RTX_5090 = CARDS["rtx-5090"]
T4 = CARDS["t4"]
L4 = CARDS["l4"]
A10 = CARDS["a10"]
L40S = CARDS["l40s"]
A100_40 = CARDS["a100-40"]
A100_80 = CARDS["a100-80"]
H100 = CARDS["h100"]
H200 = CARDS["h200"]


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
    "h100-80-by-8": machine(*[H100] * 8, ram=1024 * GIB),
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
