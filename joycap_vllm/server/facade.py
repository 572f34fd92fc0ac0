"""From options to a plan: looks at this machine, finds its vLLM, and reads the model."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from joycap_vllm.errors import TooLargeError, UsageError
from joycap_vllm.server import command as commands
from joycap_vllm.server.command import EngineCommand
from joycap_vllm.server.files import check_files
from joycap_vllm.server.hardware import Hardware
from joycap_vllm.server.looking import look
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import NANO, ModelShape, nano_shape, shape_of
from joycap_vllm.server.values import Plan, ServeOptions


def plan_for(
    options: ServeOptions,
    *,
    to_show: bool = False,
    on_line: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan for this machine.

    Args:
        to_show: Whether the plan will only be printed, so that it may be one that cannot be
            carried out here; its `obstacle` says why.
        on_line: Is told what takes a while.

    Raises:
        UsageError: The options contradict each other or the machine, or vLLM is not installed.
        EngineError: vLLM is installed, and broken.
    """
    shape = model_shape(options.model)
    if options.machine is not None:
        if not to_show:
            raise UsageError("--machine plans for another machine: add --dry-run or --shell")
        command = commands.docker() if options.engine == "docker" else commands.elsewhere()
        return make_plan(options.machine, command, shape, options, environ=os.environ)
    if not to_show:
        _check_adapters(options)
        check_files(Path(shape.model))
    hardware = look()
    command, obstacle = _engine(options, hardware, to_show, on_line)
    try:
        return make_plan(hardware, command, shape, options, environ=os.environ, obstacle=obstacle)
    except TooLargeError as error:
        # A model that is too large for this CPU is most likely meant for a GPU elsewhere.
        if not (to_show and command.is_cpu and options.engine == "auto"):
            raise
        command, obstacle = commands.elsewhere(), str(error)
    return make_plan(hardware, command, shape, options, environ=os.environ, obstacle=obstacle)


def model_shape(model: str) -> ModelShape:
    """The shape of a model by the name that a user gives it: `nano`, a folder, a hub name."""
    if model != NANO:
        return shape_of(model)
    from joycap_vllm.nano import checkpoint_path

    return nano_shape(checkpoint_path())


def _check_adapters(options: ServeOptions) -> None:
    """Says so before minutes of loading when an adapter is not there."""
    for name, path in options.loras:
        folder = Path(path).expanduser()
        on_hub = not path.startswith((".", "/", "~")) and path.count("/") == 1
        if not (folder / "adapter_config.json").is_file() and (folder.is_dir() or not on_hub):
            raise UsageError(f"--lora {name}={path}: no adapter_config.json is there")


def _engine(
    options: ServeOptions, hardware: Hardware, to_show: bool, on_line: Callable[[str], None]
) -> tuple[EngineCommand, str | None]:
    obstacle = _cannot_run(options)
    if obstacle is not None and not to_show:
        raise UsageError(obstacle)
    try:
        found = commands.find(options.engine, has_gpu=bool(hardware.gpus), on_line=on_line)
    except UsageError as error:
        if not to_show:
            raise
        return commands.elsewhere(), str(error)
    return found, obstacle


def _cannot_run(options: ServeOptions) -> str | None:
    if sys.platform == "win32":
        return "vLLM does not run on Windows: use WSL 2, or --engine docker with --shell"
    if options.engine == "docker" and shutil.which("docker") is None:
        return "docker is not installed here (--shell prints the command for where it is)"
    return None
