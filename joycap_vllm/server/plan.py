"""What will be started, and why: a pure function of the hardware, the engine and the options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from joycap_vllm.errors import UsageError
from joycap_vllm.server.command import MEND, EngineCommand, python_path
from joycap_vllm.server.docker import docker_argv, docker_cleanup
from joycap_vllm.server.flags import (
    DRAIN_SECONDS,
    GUARD,
    gpu_flags,
    guard_flag,
    longest,
    shared_flags,
    variables,
)
from joycap_vllm.server.hardware import Gpu, Hardware
from joycap_vllm.server.memory import Fit, fit
from joycap_vllm.server.raw import check_raw, named, value_of
from joycap_vllm.server.shape import ModelShape
from joycap_vllm.server.values import Flag, Plan, Replica, ServeOptions


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
    environ = environ or {}
    # vLLM reads this variable by itself, so a key that is set there holds.
    api_key = options.api_key or environ.get("VLLM_API_KEY") or None
    _check(command, shape, options, api_key)
    gpus = () if command.is_cpu else _choose_gpus(hardware, options)
    if not gpus and not command.is_cpu and obstacle is None:
        obstacle = f"no GPU is visible here, and vLLM {command.version} is a build for GPUs"
    if command.kind == "docker" and any(gpu.maker == "amd" for gpu in gpus):
        obstacle = "--engine docker runs vLLM's image for NVIDIA GPUs, and this machine's are AMD's"
    seats, left_out = _seats(shape, gpus, options, longest(options, shape))
    own = [tuple(gpu_flags(command, shape, options, gpu, fit)) for gpu, fit in seats]
    if command.is_cpu:
        own = [()] * len(seats)
    shared = tuple(shared_flags(hardware, command, shape, options))
    shared += (guard_flag(),) if api_key else ()
    taken = named(options.raw) - {"--middleware"}  # of which vLLM takes several
    wanted = dict.fromkeys(flag.name for flag in chain(shared, *own) if flag.name not in taken)
    unknown = [name for name in wanted if not command.knows(name)]

    def kept(flags: Iterable[Flag]) -> tuple[Flag, ...]:
        return tuple(f for f in flags if f.name in wanted and f.name not in unknown)

    found = variables(hardware, command, shape, options)
    notes = [f"vLLM {command.version} has no {name}: left out" for name in unknown]
    notes += [*left_out, *_notes(hardware, gpus, command)]
    plan = Plan(
        shape=shape,
        served=value_of("--served-model-name", options.raw) or shape.served,
        command=command,
        flags=kept(shared),
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
    places = [(gpu, fit, kept(flags)) for (gpu, fit), flags in zip(seats, own, strict=True)]
    return replace(plan, replicas=tuple(_replicas(plan, places, options, environ)))


def _check(
    command: EngineCommand, shape: ModelShape, options: ServeOptions, api_key: str | None
) -> None:
    """Refuses options that contradict each other, the engine or the model."""
    check_raw(options.raw, command)
    if shape.quantized and options.quantization == "fp8":
        raise UsageError(
            f"{shape.model} is quantised already, and is served as it is: leave --quantization out"
        )
    _check_host(options, api_key)
    if command.is_cpu and options.gpus is not None:
        raise UsageError(f"--gpus: the vLLM here ({command.version}) is a build for CPUs")
    _check_twice(options)


def _check_twice(options: ServeOptions) -> None:
    """Refuses what is given before the -- and behind it."""
    given = {
        "--max-model-len": options.max_model_len != "auto",
        "--max-num-seqs": options.max_num_seqs is not None,
        "--quantization": options.quantization != "auto",
        "--lora-modules": bool(options.loras),
    }
    for name in named(options.raw):
        if given.get(name):
            ours = "--lora" if name == "--lora-modules" else name
            raise UsageError(f"{ours} and {name} behind -- say two things: leave one of them out")


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
        known = list(dict.fromkeys(gpu.index for gpu in gpus))
        missing = [str(index) for index in options.gpus if index not in known]
        if missing:
            there = ", ".join(map(str, known)) or "none"
            raise UsageError(f"no GPU {', '.join(missing)} is visible here; visible: {there}")
        gpus = tuple(gpu for index in options.gpus for gpu in gpus if gpu.index == index)
    return gpus


def _seats(
    shape: ModelShape, gpus: tuple[Gpu, ...], options: ServeOptions, tokens: int
) -> tuple[list[tuple[Gpu | None, Fit | None]], list[str]]:
    """A GPU for each replica and how the model goes on it; and which GPUs cannot hold it."""
    if not gpus:
        return [(None, None)] * (options.replicas or 1), []
    seats: list[tuple[Gpu | None, Fit | None]] = []
    reasons: list[str] = []
    for gpu in gpus:
        if options.replicas is not None and len(seats) == options.replicas:
            break
        try:
            seats.append((gpu, fit(shape, gpu, options.quantization, tokens)))
        except UsageError as error:
            if options.gpus is not None:
                raise
            reasons.append(str(error))
    if not seats:
        raise UsageError("\n".join(reasons))
    if options.replicas is not None and options.replicas > len(seats):
        wanted = f"{options.replicas} replicas need {options.replicas} GPUs"
        raise UsageError("; ".join([f"{wanted}, and {len(seats)} can be used", *reasons]))
    return seats, [f"left out: {reason}" for reason in reasons]


def _drain_seconds(raw: tuple[str, ...]) -> float:
    try:
        return float(value_of("--shutdown-timeout", raw) or DRAIN_SECONDS)
    except ValueError:
        return DRAIN_SECONDS


def _notes(hardware: Hardware, gpus: tuple[Gpu, ...], command: EngineCommand) -> Iterator[str]:
    yield from (f"not usable: {ill}" for ill in hardware.ill)
    if hardware.hidden and not command.is_cpu:
        names = ", ".join(hardware.hidden)
        yield f"hidden by CUDA_VISIBLE_DEVICES: {names}"
    if not gpus and not command.is_cpu:
        yield (
            "no GPU is visible here: memory share, batch sizes and quantisation are left to vLLM "
            "(--max-num-seqs and --quantization set them)"
        )


def _replicas(
    plan: Plan,
    places: list[tuple[Gpu | None, Fit | None, tuple[Flag, ...]]],
    options: ServeOptions,
    environ: Mapping[str, str],
) -> Iterator[Replica]:
    shared = {flag.name: str(flag.value) for flag in plan.env}
    folders = [MEND] * plan.command.mended + [GUARD.parent] * (plan.api_key is not None)
    shared |= python_path(folders, environ) if folders else {}
    for number, (gpu, fit_, flags) in enumerate(places):
        port = options.port + number
        url = reachable_url(options.host, port)
        replica = Replica(options.host, port, url, gpu, (), {}, flags=flags, fit=fit_)
        if plan.command.kind == "docker":
            argv = docker_argv(plan, replica, environ)
            yield replace(replica, argv=argv, cleanup=docker_cleanup(port))
            continue
        model = ("--model",) if plan.command.names_model else ()
        argv = (*plan.command.argv, *model, plan.shape.model)
        argv += ("--host", options.host, "--port", str(port))
        argv += tuple(word for flag in (*plan.flags, *flags) for word in flag.words)
        yield replace(replica, argv=(*argv, *plan.raw), env=shared | _sees(gpu))


def _sees(gpu: Gpu | None) -> dict[str, str]:
    """The variables that show a server its GPU alone."""
    if gpu is None:
        return {}
    if gpu.maker == "amd":
        # vLLM for ROCm wants both to say the same.
        return {"HIP_VISIBLE_DEVICES": gpu.selector, "CUDA_VISIBLE_DEVICES": gpu.selector}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu.selector}


def reachable_url(host: str, port: int) -> str:
    """The base URL under which this machine reaches a server that listens on `host`."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104  (compared, not bound)
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
