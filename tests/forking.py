"""The command in a process of its own that starts at once.

It is forked from a process that has imported everything and done nothing: a start from nothing
takes a second of CPU, which several hundred tests would pay. Tests that signal or kill the command,
or measure its start, start it as users do.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([
    "forking", "joycap_vllm.cli.running", "joycap_vllm.cli.linting", "joycap_vllm.job.run",
    "joycap_vllm.job.report", "joycap_vllm.job.page", "joycap_vllm.job.export",
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
    typed = ["joycap", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        place = os.fspath(cwd or Path.cwd())
        process = _CONTEXT.Process(target=_work, args=(typed, place, dict(os.environ), outputs))
        process.start()
        process.join(timeout)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        out, err = (output.read_text(encoding="utf-8") for output in outputs)
    if late:
        raise subprocess.TimeoutExpired(typed, timeout, out, err)
    return subprocess.CompletedProcess(typed, code if code is not None else -1, out, err)


def _work(
    typed: list[str], place: str, environment: Mapping[str, str], outputs: Sequence[Path]
) -> None:
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
    from joycap_vllm.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
