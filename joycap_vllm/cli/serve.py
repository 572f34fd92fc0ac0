"""`joycap serve`: vLLM for JoyCaption, planned, started and proved."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joycap_vllm.cli import completing

if TYPE_CHECKING:
    from joycap_vllm.server import EngineKind, ServeOptions

DEFAULT_MODEL = "fancyfeast/llama-joycaption-beta-one-hf-llava"


class EngineChoice(StrEnum):
    auto = "auto"
    vllm = "vllm"
    cpu = "cpu"
    docker = "docker"


class QuantizationChoice(StrEnum):
    auto = "auto"
    none = "none"
    fp8 = "fp8"


class ShellChoice(StrEnum):
    bash = "bash"
    powershell = "powershell"
    cmd = "cmd"


Model = Annotated[
    str,
    typer.Argument(
        help="A model on the Hugging Face hub, a folder, or `nano` (the embedded model).",
        envvar="JOYCAP_SERVE_MODEL",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.", envvar="JOYCAP_HOST")]
Port = Annotated[
    int,
    typer.Option(
        help="Port of the first server; the others take the next ones.", envvar="JOYCAP_PORT"
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(help="GPUs to use, as in 0,1. Default: all.", envvar="JOYCAP_GPUS"),
]
Replicas = Annotated[
    str,
    typer.Option(help="Number of servers, or auto: one for each GPU.", envvar="JOYCAP_REPLICAS"),
]
MaxModelLen = Annotated[
    str,
    typer.Option(
        help="Longest prompt and answer in tokens, or auto: what captioning needs.",
        envvar="JOYCAP_MAX_MODEL_LEN",
    ),
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most captions at once in a server. Default: what the memory holds.",
        envvar="JOYCAP_MAX_NUM_SEQS",
    ),
]
Quantization = Annotated[
    QuantizationChoice,
    typer.Option(
        help="auto: fp8 weights where 16 bits leave room for few captions at once (--dry-run "
        "tells); none: as they are stored. What is quantised already is served as it is.",
        envvar="JOYCAP_QUANTIZATION",
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="An adapter, served as a model of that name. Repeatable.",
        envvar="JOYCAP_LORA",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(help="File with the key that clients must send.", envvar="JOYCAP_API_KEY_FILE"),
]
Engine = Annotated[
    EngineChoice,
    typer.Option(
        help="auto: the vLLM that is installed; docker: vLLM's own image.",
        envvar="JOYCAP_ENGINE",
    ),
]
StartTimeout = Annotated[
    float,
    typer.Option(
        min=1,
        help="Seconds until a server must be ready, download included.",
        envvar="JOYCAP_START_TIMEOUT",
    ),
]
LogDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for vLLM's logs. Default: the user's state folder.",
        envvar="JOYCAP_LOG_DIR",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the plan and why each flag has its value, and start nothing.",
        envvar="JOYCAP_DRY_RUN",
    ),
]
Shell = Annotated[
    ShellChoice | None,
    typer.Option(
        help="Print the commands for this shell, to be run elsewhere; for Windows' shells those of "
        "--engine docker, unless another is chosen.",
        envvar="JOYCAP_SHELL",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the base URLs as one JSON list, and what happens as JSON lines on stderr.",
        envvar="JOYCAP_JSON",
    ),
]
Machine = Annotated[
    str | None,
    typer.Option(
        "--machine",
        autocompletion=completing.machines,
        metavar="GPU[xN][,GPU...]",
        help="With --dry-run or --shell: plan for a machine with these GPUs (rtx-4090, h100x8).",
        envvar="JOYCAP_MACHINE",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Allow an address that others can reach without an API key.",
        envvar="JOYCAP_INSECURE",
    ),
]
Status = Annotated[
    bool,
    typer.Option(
        "--status",
        help="Show the servers that run on this machine, and start none.",
        envvar="JOYCAP_STATUS",
    ),
]
Stop = Annotated[
    bool,
    typer.Option(
        "--stop",
        help="Stop the servers that run on this machine, once they have answered what they have "
        "begun. With --port, only the launcher that has a server there.",
        envvar="JOYCAP_STOP",
    ),
]
NoCheck = Annotated[
    bool,
    typer.Option("--no-check", help="Leave out the test picture.", envvar="JOYCAP_NO_CHECK"),
]


def serve(
    context: typer.Context,
    model: Model = DEFAULT_MODEL,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    gpus: Gpus = None,
    replicas: Replicas = "auto",
    max_model_len: MaxModelLen = "auto",
    max_num_seqs: MaxNumSeqs = None,
    quantization: Quantization = QuantizationChoice.auto,
    lora: Loras = None,
    api_key_file: ApiKeyFile = None,
    engine: Engine = EngineChoice.auto,
    start_timeout: StartTimeout = 1800,
    log_dir: LogDir = None,
    dry_run: DryRun = False,
    shell: Shell = None,
    machine: Machine = None,
    as_json: AsJson = False,
    insecure: Insecure = False,
    no_check: NoCheck = False,
    status: Status = False,
    stop: Stop = False,
) -> None:
    """Starts vLLM for JoyCaption and looks after it until Ctrl-C.

    Everything behind -- goes to vLLM as it is. Prints the servers' base URLs once all of them
    have captioned a test picture. A server that dies is started again.

    Examples:

      joycap serve

      joycap serve --dry-run --machine rtx-4090

      joycap serve ./my-finetune --port 8100 -- --gpu-memory-utilization 0.8

      joycap serve --stop

    Exit codes: 0 stopped while serving, 2 wrong usage or not on this machine, 3 a server does not
    caption as it should (with --status: none is ready), 5 vLLM cannot be started or keeps dying.
    """
    if status or stop:
        raise typer.Exit(_look_or_stop(context, port, stop=stop, as_json=as_json))
    from joycap_vllm import server

    # Behind a bare `--` the first word of vLLM's flags looks like the model.
    raw = tuple(context.args)
    if model.startswith("-"):
        model, raw = DEFAULT_MODEL, (model, *raw)
    options = server.ServeOptions(
        model=model,
        host=host,
        port=port,
        gpus=server.read_gpus(gpus),
        replicas=server.read_replicas(replicas),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        quantization=quantization.value,
        loras=server.read_loras(lora or []),
        api_key=server.read_api_key(api_key_file),
        insecure=insecure,
        engine=_engine_for(engine, shell),
        raw=raw,
        log_dir=log_dir,
        start_timeout=start_timeout,
        check=not no_check,
        machine=None if machine is None else server.read_machine(machine),
    )
    _print_plan(options, shell) if shell is not None or dry_run else _serve(options, as_json)


def _engine_for(engine: EngineChoice, shell: ShellChoice | None) -> EngineKind:
    """What is asked for; for Windows' shells Docker, since vLLM itself does not run there."""
    windows = shell not in (None, ShellChoice.bash)
    return "docker" if windows and engine is EngineChoice.auto else engine.value


def _look_or_stop(context: typer.Context, port: int, *, stop: bool, as_json: bool) -> int:
    from joycap_vllm.cli.launched import show, stop_all

    source = context.get_parameter_source("port")
    chosen = None if source is None or source.name == "DEFAULT" else port
    return stop_all(chosen) if stop else show(chosen, as_json=as_json)


def _print_plan(options: ServeOptions, shell: ShellChoice | None) -> None:
    from joycap_vllm.server import explain, plan_for, shell_commands

    plan = plan_for(options, to_show=True, on_line=_talk)
    typer.echo(explain(plan) if shell is None else shell_commands(plan, shell.value))


def _talk(line: str) -> None:
    typer.echo(line, err=True)


def _serve(options: ServeOptions, as_json: bool) -> None:
    import asyncio

    from joycap_vllm.cli.serving import Events, Talk
    from joycap_vllm.server import Record, plan_for, reachable_url, serve_until_stopped

    with Events() if as_json else Talk() as told, Record(options.model) as record:
        record.begin(reachable_url(options.host, options.port))
        plan = plan_for(options, on_line=told.line)
        for note in plan.notes:
            told.line(f"note: {note}")
        code = asyncio.run(
            serve_until_stopped(
                plan, on_line=told.line, on_ready=told.ready, on_change=told.change, record=record
            )
        )
    raise typer.Exit(code)
