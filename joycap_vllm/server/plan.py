"""What will be started, and why: a pure function of the hardware, the engine and the options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from joycap_vllm.errors import UsageError
from joycap_vllm.server.command import EngineCommand, mend_env
from joycap_vllm.server.docker import docker_argv, docker_cleanup
from joycap_vllm.server.flags import DRAIN_SECONDS, engine_flags, variables
from joycap_vllm.server.hardware import Gpu, Hardware
from joycap_vllm.server.memory import Fit, fit
from joycap_vllm.server.raw import check_raw, named, value_of
from joycap_vllm.server.shape import ModelShape
from joycap_vllm.server.values import Plan, Replica, ServeOptions


def make_plan(
    hardware: Hardware,
    command: EngineCommand,
    shape: ModelShape,
    options: ServeOptions,
    *,
    environ: Mapping[str, str] | None = None,
    obstacle: str | None = None,
) -> Plan:
    """Plans the servers.

    Args:
        environ: The user's environment; a variable that is set there is left as it is.
        obstacle: A reason known already why the plan can only be shown, not carried out.

    Raises:
        UsageError: The options contradict each other or the machine.
    """
    check_raw(options.raw, command)
    environ = environ or {}
    # vLLM reads this variable by itself, so a key that is set there holds.
    api_key = options.api_key or environ.get("VLLM_API_KEY") or None
    _check_host(options, api_key)
    gpus = () if command.is_cpu else _choose_gpus(hardware, options)
    if not gpus and not command.is_cpu and obstacle is None:
        obstacle = f"no GPU is visible here, and vLLM {command.version} is a build for GPUs"
    chosen = _fit_all(shape, gpus, options)
    taken = named(options.raw)
    wanted = [
        f for f in engine_flags(hardware, command, shape, options, chosen) if f.name not in taken
    ]
    flags = tuple(flag for flag in wanted if command.knows(flag.name))
    unknown = [flag.name for flag in wanted if not command.knows(flag.name)]
    found = variables(hardware, command, shape)
    notes = [f"vLLM {command.version} has no {name}: left out" for name in unknown]
    notes += _notes(gpus, command)
    plan = Plan(
        shape=shape,
        served=value_of("--served-model-name", options.raw) or shape.served,
        command=command,
        flags=flags,
        env=tuple(variable for variable in found if variable.name not in environ),
        raw=options.raw,
        replicas=(),
        notes=tuple(notes),
        obstacle=obstacle,
        api_key=api_key,
        log_dir=options.log_dir,
        start_timeout=options.start_timeout,
        grace=_drain_seconds(options.raw) + 15,
        check=options.check,
    )
    return replace(plan, replicas=tuple(_replicas(plan, gpus, options, environ)))


def _check_host(options: ServeOptions, api_key: str | None) -> None:
    loopback = options.host in {"localhost", "::1"} or options.host.startswith("127.")
    if not loopback and api_key is None and not options.insecure:
        raise UsageError(
            f"{options.host} can be reached from other machines: give --api-key-file, "
            "or --insecure if all of them may use this server"
        )
    last = options.port + (options.replicas or 1) - 1
    if options.port < 1 or last > 65535:
        raise UsageError(f"no such port: {last if options.port > 0 else options.port}")


def _choose_gpus(hardware: Hardware, options: ServeOptions) -> tuple[Gpu, ...]:
    gpus = hardware.gpus
    if options.gpus is not None:
        by_index = {gpu.index: gpu for gpu in gpus}
        missing = [str(index) for index in options.gpus if index not in by_index]
        if missing:
            there = ", ".join(str(index) for index in by_index) or "none"
            raise UsageError(f"no GPU {', '.join(missing)} is visible here; visible: {there}")
        gpus = tuple(by_index[index] for index in options.gpus)
    count = options.replicas if options.replicas is not None else max(1, len(gpus))
    if gpus and count > len(gpus):
        raise UsageError(f"{count} replicas need {count} GPUs, and {len(gpus)} can be used")
    return gpus[:count]


def _fit_all(shape: ModelShape, gpus: tuple[Gpu, ...], options: ServeOptions) -> Fit | None:
    """All replicas get the same flags: those that the GPU with the least room can bear."""
    fits = [fit(shape, gpu, options.quantization) for gpu in gpus]
    if any(one.fp8 != fits[0].fp8 for one in fits):
        raise UsageError("these GPUs want different quantisation: choose some with --gpus")
    return min(fits, key=lambda one: (one.sequences, one.utilization), default=None)


def _drain_seconds(raw: tuple[str, ...]) -> float:
    try:
        return float(value_of("--shutdown-timeout", raw) or DRAIN_SECONDS)
    except ValueError:
        return DRAIN_SECONDS


def _notes(gpus: tuple[Gpu, ...], command: EngineCommand) -> list[str]:
    if gpus or command.is_cpu:
        return []
    return [
        "no GPU is visible here: memory share, batch sizes and quantisation are left to vLLM "
        "(--max-num-seqs and --quantization set them)"
    ]


def _replicas(
    plan: Plan, gpus: tuple[Gpu, ...], options: ServeOptions, environ: Mapping[str, str]
) -> Iterator[Replica]:
    shared = {flag.name: str(flag.value) for flag in plan.env}
    shared |= mend_env(plan.command.mended, environ)
    for number, gpu in enumerate(gpus or (None,)):
        port = options.port + number
        base_url = f"http://{_reachable(options.host)}:{port}/v1"
        if plan.command.kind == "docker":
            argv = docker_argv(plan, gpu, options.host, port, environ)
            yield Replica(options.host, port, base_url, gpu, argv, {}, docker_cleanup(port))
            continue
        env = dict(shared)
        if gpu is not None:
            env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(gpu.index)}
        model = ("--model",) if plan.command.names_model else ()
        argv = (*plan.command.argv, *model, plan.shape.model)
        argv += ("--host", options.host, "--port", str(port))
        argv += tuple(word for flag in plan.flags for word in flag.words)
        yield Replica(options.host, port, base_url, gpu, (*argv, *plan.raw), env)


def _reachable(host: str) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104  (compared, not bound)
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
