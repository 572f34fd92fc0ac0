"""The launcher: starts and looks after vLLM for JoyCaption.

Looks at the hardware, finds vLLM, plans its flags with their reasons, starts one server per GPU,
waits until each serves, and proves each with a test picture. Knows nothing of jobs.
"""

from __future__ import annotations

from joycap_vllm.server.command import BenchCommand, EngineKind, bench_command
from joycap_vllm.server.engine import Engine, engine, running
from joycap_vllm.server.explain import explain
from joycap_vllm.server.facade import plan_for
from joycap_vllm.server.known import read_machine
from joycap_vllm.server.launches import Launch, Record, launches, stop
from joycap_vllm.server.plan import reachable_url
from joycap_vllm.server.reading import read_api_key, read_gpus, read_loras, read_replicas
from joycap_vllm.server.service import serve_until_stopped
from joycap_vllm.server.shape import DEFAULT_MODEL
from joycap_vllm.server.shell import Shell, shell_commands
from joycap_vllm.server.states import Change, State
from joycap_vllm.server.values import Flag, Plan, Replica, ServeOptions

__all__ = [
    "DEFAULT_MODEL",
    "BenchCommand",
    "Change",
    "Engine",
    "EngineKind",
    "Flag",
    "Launch",
    "Plan",
    "Record",
    "Replica",
    "ServeOptions",
    "Shell",
    "State",
    "bench_command",
    "engine",
    "explain",
    "launches",
    "plan_for",
    "reachable_url",
    "read_api_key",
    "read_gpus",
    "read_loras",
    "read_machine",
    "read_replicas",
    "running",
    "serve_until_stopped",
    "shell_commands",
    "stop",
]
