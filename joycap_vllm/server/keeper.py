"""Stands between the launcher and one engine, so that no process outlives the launcher.

When vLLM's API server is killed, its EngineCore and worker processes live on and hold the GPU;
and a launcher that is killed can tell nobody to stop. The keeper leads the process group that all
of them belong to. It watches its parent: once that is gone it stops the engine, waits a while,
and kills the whole group. While the launcher lives, the launcher does this, and the keeper only
passes SIGTERM on and hands back the engine's exit status.

Run as a script of the standard library alone, since it lives as long as the engine does:
`python -I -S keeper.py '{"launcher": PID, "grace": SECONDS, "argv": […], "cleanup": […]}'`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Any

POLL_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def main(order: dict[str, Any]) -> int:
    """Runs the engine to its end; the exit status is the engine's, as a shell gives it."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    engine = subprocess.Popen(order["argv"], preexec_fn=_follow_the_keeper)
    told = False
    while engine.poll() is None:
        if os.getppid() != order["launcher"]:
            _end_all(engine, order)
        if stopping and not told:
            engine.terminate()
            told = True
        _wait(engine, POLL_SECONDS)
    status = engine.returncode
    return status if status >= 0 else 128 - status


def _follow_the_keeper() -> None:
    """Should the keeper itself be killed, the kernel asks the engine to stop (Linux)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(engine: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        engine.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end_all(engine: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    engine.terminate()
    _wait(engine, order["grace"])
    if order["cleanup"]:
        subprocess.run(order["cleanup"], check=False, timeout=60)
    # The keeper is of this group too: this is its end.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
