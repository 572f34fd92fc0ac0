"""One server process: its group, its log, its death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from joycap_vllm.errors import EngineError
from joycap_vllm.server.launches import launches
from joycap_vllm.server.log import last_error, matters, message
from joycap_vllm.server.values import Plan, Replica

KEEPER = Path(__file__).with_name("keeper.py")
# While vLLM loads it has no requests to finish, and it hears no SIGTERM until it has loaded.
LOADING_GRACE_SECONDS = 3.0
# Nobody is left to be told how the requests in flight end.
ORPHAN_GRACE_SECONDS = 10.0
TAIL_SECONDS = 0.2
LOGS_KEPT = 20
LINES_KEPT = 4000


class Process:
    """One replica, with the keeper that leads its process group."""

    def __init__(
        self,
        replica: Replica,
        log: Path,
        keeper: asyncio.subprocess.Process,
        grace: float,
        on_line: Callable[[str], None],
    ) -> None:
        self.replica = replica
        self.serving = False
        self._ending = False
        self._grace = grace
        self.log = log
        self._keeper = keeper
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._tail = log.open("rb")  # which can be read on, should somebody remove the file
        self._rest = ""
        self._follower = asyncio.ensure_future(self._follow())

    @property
    def leader(self) -> int:
        """The process that leads its group."""
        return self._keeper.pid

    @property
    def last_words(self) -> str:
        """The last line of its log that says something."""
        said = (message(line)[1].strip() for line in reversed(self._lines))
        return next(filter(None, said), "nothing")

    async def died(self) -> EngineError:
        """Waits until the server is gone; the error says why in its own words."""
        status = await self._keeper.wait()
        self.kill()
        await asyncio.wait({self._follower})
        why = last_error(self._lines) or _cause(status, self._lines)
        return EngineError(f"vLLM died: {why}\nlog: {self.log}")

    async def stop(self) -> None:
        """SIGTERM, which lets it finish what is in flight; then SIGKILL to the whole group."""
        self._ending = True
        with contextlib.suppress(ProcessLookupError):
            self._keeper.terminate()
        grace = self._grace if self.serving else min(self._grace, LOADING_GRACE_SECONDS)
        try:
            async with asyncio.timeout(grace):
                await self._keeper.wait()
        except TimeoutError:
            self._on_line(f"vLLM did not stop within {grace:.0f} s: killing it")
        finally:
            self.kill()
        await self._keeper.wait()
        await asyncio.wait({self._follower})
        if self.replica.cleanup:
            await _run_quietly(self.replica.cleanup)

    def kill(self) -> None:
        """SIGKILL to all of the group that is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._keeper.pid, signal.SIGKILL)

    async def _follow(self) -> None:
        """Reads the log to its end, for as long as the server lives."""
        while self._keeper.returncode is None:
            self._read()
            await asyncio.sleep(TAIL_SECONDS)
        self._read()
        self._tail.close()

    def _read(self) -> None:
        fresh = self._tail.read()
        text = self._rest + fresh.decode("utf-8", errors="replace").replace("\r", "\n")
        *lines, self._rest = text.split("\n")
        for line in lines:
            self._lines.append(line)
            words = matters(line, ending=self._ending)
            if words is not None:
                self._on_line(words)


def _cause(status: int, lines: Iterable[str]) -> str:
    """What an exit status tells where the log holds no error."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL:
        return "it was killed from outside, as the system does when memory runs out"
    if number in signal.valid_signals():
        return f"it was ended by {signal.Signals(number).name}"
    said = [line.strip() for line in lines if line.strip()]
    return f"it ended with status {status}: {said[-1] if said else 'it said nothing'}"


async def start(plan: Plan, replica: Replica, on_line: Callable[[str], None]) -> Process:
    """Starts one replica in a process group of its own, with its log in a file.

    Raises:
        EngineError: The operating system refuses.
    """
    order = {
        "launcher": os.getpid(),
        "grace": min(plan.grace, ORPHAN_GRACE_SECONDS),
        "argv": replica.argv,
        "cleanup": replica.cleanup,
    }
    env = {**os.environ, **replica.env}
    if plan.api_key is not None:
        env["VLLM_API_KEY"] = plan.api_key
    try:
        log = new_log(plan.log_dir, replica.port)
        with log.open("wb") as sink:
            keeper = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(KEEPER), json.dumps(order),
                stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink,
                env=env, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise EngineError(f"vLLM could not be started: {error}") from error
    on_line(f"starting vLLM on port {replica.port}; log: {log}")
    return Process(replica, log, keeper, plan.grace, on_line)


def new_log(folder: Path | None, port: int) -> Path:
    """A fresh log file; only the newest few are kept."""
    if folder is None:
        import platformdirs

        folder = Path(platformdirs.user_state_dir("joycap-vllm")) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    living = {server.log for launch in launches() for server in launch.servers}
    old = [file for file in folder.glob("vllm-*.log") if str(file) not in living]
    old.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in old[LOGS_KEPT - 1 :]:
        file.unlink(missing_ok=True)
    now = time.time()
    when = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}.{int(now * 1000) % 1000:03}"
    return folder / f"vllm-{port}-{when}-{os.getpid()}.log"


async def _run_quietly(argv: tuple[str, ...]) -> None:
    quiet = asyncio.subprocess.DEVNULL
    with contextlib.suppress(OSError):
        process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet)
        await process.wait()
