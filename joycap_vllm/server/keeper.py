"""Stands between the launcher and one engine, so that no process outlives the launcher.

When vLLM's API server is killed, its EngineCore and worker processes live on and hold the GPU;
and a launcher that is killed can tell nobody to stop. The keeper leads the process group that all
of them belong to. It watches its parent: once that is gone it stops the engine, waits a while,
and kills the whole group. While the launcher lives, the launcher does this, and the keeper only
passes SIGTERM on and hands back the engine's exit status.

The keeper may be killed as well, together with all that has "joycap" in its command line. So a
shell of a session of its own, in whose command line that word does not stand, holds the other end
of a pipe: when it breaks without a word, the shell ends the group.

Run as a script of the standard library alone, since it lives as long as the engine does:
`python -I -S keeper.py '{"launcher": PID, "grace": SECONDS, "argv": […], "cleanup": […]}'`.
"""

from __future__ import annotations

import contextlib
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
    word = _last_guard(order["grace"])
    engine = subprocess.Popen(order["argv"], preexec_fn=_follow_the_keeper)
    told = False
    while engine.poll() is None:
        if os.getppid() != order["launcher"]:
            _end_all(engine, order)
        if stopping and not told:
            engine.terminate()
            told = True
        _wait(engine, POLL_SECONDS)
    with contextlib.suppress(OSError):  # the shell may have been killed
        os.write(word, b"well\n")
    status = engine.returncode
    return status if status >= 0 else 128 - status


def _last_guard(grace: float) -> int:
    """Starts the shell that outlives the keeper; a word to what is returned sends it away."""
    reading, writing = os.pipe()  # neither end goes on to the engine
    group = os.getpgrp()
    script = (
        f"read word && exit; kill -TERM -{group} || exit; left={int(grace) + 1}; "
        f"while [ $left -gt 0 ]; do sleep 1; kill -0 -{group} || exit; left=$((left - 1)); done; "
        f"kill -KILL -{group}"
    )
    subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=reading, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(reading)
    return writing


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
    try:
        if order["cleanup"]:
            subprocess.run(order["cleanup"], check=False, timeout=60)
    finally:
        # The keeper is of this group too: this is its end.
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
