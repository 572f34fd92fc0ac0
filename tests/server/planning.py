"""Plans for machines made by hand, and what stands in them."""

from __future__ import annotations

from dataclasses import replace

from server_help import COMMAND

from joycap_vllm.server import Flag, Plan, ServeOptions
from joycap_vllm.server.command import EngineCommand
from joycap_vllm.server.hardware import Hardware
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import JOYCAPTION, ModelShape

CPU = EngineCommand(("python", "-m", "entry"), True, "0.32.0", True, None)
NANO = replace(JOYCAPTION, model="/nano", served="joycap-nano", weights=1_250_000, kv_per_token=256)


def plan_on(
    hardware: Hardware,
    options: ServeOptions | None = None,
    command: EngineCommand = COMMAND,
    shape: ModelShape = JOYCAPTION,
    **more: object,
) -> Plan:
    environ = {str(name): str(value) for name, value in more.items()}
    return make_plan(hardware, command, shape, options or ServeOptions(), environ=environ)


def values(plan: Plan) -> dict[str, str | tuple[str, ...] | None]:
    return {flag.name: flag.value for flag in flags_of(plan)}


def flags_of(plan: Plan, number: int = 0) -> tuple[Flag, ...]:
    """All flags of one of its servers."""
    return (*plan.flags, *plan.replicas[number].flags)


def why(plan: Plan, name: str) -> str:
    return next(flag.why for flag in (*flags_of(plan), *plan.env) if flag.name == name)
