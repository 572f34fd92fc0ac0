"""A plan as people read it (`--dry-run`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from joycap_vllm.server.values import Flag, Plan, Replica

WIDEST = 46


def explain(plan: Plan) -> str:
    """Every part of the plan with its reason, and the commands as they would be run."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    command = plan.command
    build = "docker image" if command.kind == "docker" else "CPU build" if command.is_cpu else "GPU"
    if plan.obstacle is not None:
        yield f"cannot be started here: {plan.obstacle}"
        yield "what would be started where it can:\n"
    yield f"model   {plan.shape.model}, served as {plan.served}"
    yield f"engine  vLLM {command.version} ({build}): {shlex.join(command.argv)}"
    if command.mended:
        yield "        its torchvision cannot be loaded: started with joycap's mend on PYTHONPATH"
    for number, replica in enumerate(plan.replicas, 1):
        place = f" on GPU {replica.gpu.index} ({replica.gpu.name})" if replica.gpu else ""
        yield f"server {number}  {replica.base_url}{place}"
    yield "\nenvironment"
    yield from _table(plan.env, "=")
    if plan.api_key is not None:
        yield "  VLLM_API_KEY=…  the key that clients must send, kept out of the arguments"
    yield "\nflags"
    yield from _table(plan.flags, " ")
    for flags, servers in _by_flags(plan.replicas):
        if flags:
            numbers = ", ".join(map(str, servers))
            yield f"\nflags of server {numbers}" if len(servers) < len(plan.replicas) else ""
            yield from _table(flags, " ")
    if plan.raw:
        yield f"  {shlex.join(plan.raw)}  # as given behind --"
    yield from (f"\nnote: {note}" for note in plan.notes)
    for replica in plan.replicas:
        yield f"\n$ {shlex.join(replica.argv)}"


def _by_flags(replicas: Iterable[Replica]) -> Iterator[tuple[tuple[Flag, ...], list[int]]]:
    """The flags of their own GPUs, each with the numbers of the servers that have them."""
    found: dict[tuple[Flag, ...], list[int]] = {}
    for number, replica in enumerate(replicas, 1):
        found.setdefault(replica.flags, []).append(number)
    yield from found.items()


def _table(flags: Iterable[Flag], between: str) -> Iterator[str]:
    rows = [(between.join(flag.words), flag.why) for flag in flags]
    width = min(WIDEST, max((len(left) for left, _ in rows), default=0))
    yield from (f"  {left:<{width}}  # {why}" for left, why in rows)
