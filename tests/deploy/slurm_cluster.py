"""A Slurm cluster of this one machine: the real controller, the real node, the real `sbatch`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONF = """
ClusterName=joycap
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,defer_batch=0
ReturnToService=2
MinJobAge=300
KillWait=20
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 RealMemory=500000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `home` holds its logs."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.home / "slurm.conf")}

    def run(self, *words: str, extra: Mapping[str, str] | None = None, cwd: Path) -> str:
        """What one of Slurm's commands says on stdout."""
        environment = {**os.environ, **self.environment, **(extra or {})}
        done = subprocess.run(
            words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, (words, done.stderr, self.logs())
        return done.stdout

    def states(self, job: str) -> list[str]:
        """The states of an array's tasks, each once."""
        text = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%T",
                        "--jobs", job, cwd=self.home)  # fmt: skip
        return sorted(set(text.split()))

    def wait(self, job: str, *wanted: str, seconds: float = 60) -> list[str]:
        """Waits until all tasks are in one of these states."""
        until = time.monotonic() + seconds
        while not (states := self.states(job)) or not set(states) <= set(wanted):
            assert time.monotonic() < until, (states, self.logs())
            time.sleep(0.2)
        return states

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        logs = self.home.glob("*.log")
        return "\n".join(f"{one.name}: {one.read_text(errors='replace')[-2000:]}" for one in logs)


@contextlib.contextmanager
def cluster(home: Path) -> Iterator[Cluster]:
    """Starts a cluster in an empty folder, and ends it on the way out."""
    for name in ("state", "spool"):
        (home / name).mkdir()
    key = home / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = home / "slurm.conf"
    conf.write_text(
        _CONF.format(host=socket.gethostname(), home=home, ctld=_port(), slurmd=_port())
    )
    for number in range(4):
        (home / f"gpu{number}").touch()  # Slurm only looks whether it is there
    (home / "gres.conf").write_text(f"Name=gpu File={home}/gpu[0-3]\n")
    found = Cluster(home)
    environment = {**os.environ, **found.environment}
    munge = [
        "munged", "--foreground", "--force", f"--socket={home}/munge.socket",
        f"--key-file={key}", f"--pid-file={home}/munge.pid", f"--seed-file={home}/munge.seed",
    ]  # fmt: skip
    daemons = [munge, ["slurmctld", "-D", "-f", str(conf)], ["slurmd", "-D", "-f", str(conf)]]
    with contextlib.ExitStack() as stack:
        for words in daemons:
            log = stack.enter_context((home / f"{words[0]}.out.log").open("wb"))
            program = shutil.which(words[0]) or f"/usr/sbin/{words[0]}"
            daemon = subprocess.Popen(
                [program, *words[1:]], env=environment, stdout=log, stderr=log
            )
            stack.callback(_end, daemon)
            if words is munge:
                _until(lambda: (home / "munge.socket").exists(), found)
        _until(lambda: _is_idle(found), found)
        yield found


def _is_idle(found: Cluster) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env={**os.environ, **found.environment},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout.split()[:1] == ["idle"]


def _until(ready: object, found: Cluster) -> None:
    assert callable(ready)
    until = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < until, found.logs()
        time.sleep(0.1)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
