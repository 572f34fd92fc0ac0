"""The command in a process of its own that starts at once.

It is forked from a process that has imported everything and done nothing: a start from nothing
takes a second of CPU, which several hundred tests would pay. Tests that measure its start, or send
it signals as a terminal does, start it as users do.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "forking", "joycap_vllm.cli.running", "joycap_vllm.cli.linting", "joycap_vllm.job.run",
    "joycap_vllm.cli.benching",
    "joycap_vllm.job.report", "joycap_vllm.job.page", "joycap_vllm.job.export", "crash.server",
    "crash.dying",
    # What the first request and the first picture would import.
    "httpcore2", "anyio._backends._asyncio", "joycap_vllm.images.decoders", "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
    "pillow_heif", "pillow_jxl",
])  # fmt: skip


def run_joycap(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    timeout: float = 50,
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, with this process's environment.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = start(arguments, os.environ, outputs, cwd=cwd)
        process.join(timeout)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        out, err = (output.read_text(encoding="utf-8") for output in outputs)
    if late:
        raise subprocess.TimeoutExpired(list(map(str, arguments)), timeout, out, err)
    code = code if code is not None else -1
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out, err)


def start(
    arguments: Sequence[str | Path],
    environment: Mapping[str, str],
    outputs: Sequence[Path],
    *,
    cwd: Path | None = None,
    program: str = "joycap_vllm.cli",
    before: Callable[[], object] = int,
) -> ForkServerProcess:
    """Starts the command.

    Args:
        arguments: What is typed behind `joycap`.
        environment: All of its environment.
        outputs: Files for its stdout and stderr.
        cwd: Where it is typed; None takes this process's place.
        program: The module whose `main` is called.
        before: Called in it first.
    """
    typed, place = ["joycap", *map(str, arguments)], os.fspath(cwd or Path.cwd())
    work = (before, program, typed, place, dict(environment), outputs)
    process = CONTEXT.Process(target=_work, args=work)
    process.start()
    return process


def _work(
    before: Callable[[], object],
    program: str,
    typed: list[str],
    place: str,
    environment: Mapping[str, str],
    outputs: Sequence[Path],
) -> None:
    gc.freeze()  # what was imported is no garbage, and to look at it copies its memory
    before()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    for number, output in enumerate(outputs, 1):
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    sys.argv = typed
    try:
        import_module(program).main()
    finally:
        sys.stdout.flush()
