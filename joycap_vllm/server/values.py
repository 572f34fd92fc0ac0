"""The frozen values of the launcher: what was asked for, and what will be started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.server.command import EngineCommand, EngineKind
from joycap_vllm.server.hardware import Gpu, Hardware
from joycap_vllm.server.memory import Fit, Quantization
from joycap_vllm.server.pulse import Pulse
from joycap_vllm.server.shape import DEFAULT_MODEL, ModelShape


@dataclass(frozen=True)
class ServeOptions:
    """What `joycap serve` was asked for.

    Attributes:
        model: A name on the hub, a folder, or `nano`.
        gpus: Indexes as nvidia-smi counts; None: all that are visible.
        replicas: How many servers; None: one for each GPU.
        max_model_len: Tokens, in vLLM's words (`4096`, `4k`), or `auto`.
        loras: Pairs of a name and a folder.
        api_key: What clients must send; goes to vLLM by environment, never by argument.
        raw: vLLM's own flags; they win over ours.
        log_dir: Where logs go; None: the user's state folder.
        start_timeout: Seconds until a server must be ready, the model's download included.
        check: Whether each server is proved with a test picture.
        machine: What is planned for; None: this machine.
    """

    model: str = DEFAULT_MODEL
    host: str = "127.0.0.1"
    port: int = 8000
    gpus: tuple[int, ...] | None = None
    replicas: int | None = None
    max_model_len: str = "auto"
    max_num_seqs: int | None = None
    quantization: Quantization = "auto"
    loras: tuple[tuple[str, str], ...] = ()
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    engine: EngineKind = "auto"
    raw: tuple[str, ...] = ()
    log_dir: Path | None = None
    start_timeout: float = 1800.0
    check: bool = True
    machine: Hardware | None = None


@dataclass(frozen=True)
class Flag:
    """One flag or variable; a value of None is a switch, a tuple several words."""

    name: str
    value: str | tuple[str, ...] | None
    why: str

    @property
    def words(self) -> tuple[str, ...]:
        if self.value is None:
            return (self.name,)
        values = (self.value,) if isinstance(self.value, str) else self.value
        return (self.name, *values)


@dataclass(frozen=True)
class Replica:
    """One server; `argv` and `env` are complete but for the API key.

    Attributes:
        flags: Those of vLLM's flags that depend on its GPU.
        fit: How the model goes on the GPU, where one is known.
        shrunk: Whether it asks for less than was planned, since memory was short.
    """

    host: str
    port: int
    base_url: str
    gpu: Gpu | None
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cleanup: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    fit: Fit | None = None
    shrunk: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be started.

    Attributes:
        flags: Those of vLLM's flags that are the same for all replicas, each with its reason.
        env: Environment variables, likewise.
        notes: What a user should know of how this came about.
        grace: Seconds that a server has to stop before it is killed.
        pulse: How it is seen whether a server that lives still works.
        restarts: Deaths in a row after which a server is started again.
        pause: Seconds before it is, after the first; doubled with each further one.
        obstacle: Why this plan cannot be carried out on this machine, where it cannot.
    """

    shape: ModelShape
    served: str
    command: EngineCommand
    flags: tuple[Flag, ...]
    env: tuple[Flag, ...]
    raw: tuple[str, ...]
    replicas: tuple[Replica, ...]
    notes: tuple[str, ...] = ()
    obstacle: str | None = None
    api_key: str | None = field(default=None, repr=False)
    log_dir: Path | None = None
    start_timeout: float = 1800.0
    grace: float = 75.0
    check: bool = True
    pulse: Pulse = field(default_factory=Pulse)
    restarts: int = 5
    pause: float = 1.0
