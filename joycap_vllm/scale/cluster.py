"""Reaching a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from joycap_vllm.errors import MissingExtraError, UsageError

_PLACE = re.compile(r"(?:ray://)?(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):(\d{1,5})")
_PATIENCE = 10.0  # seconds for a connection
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about this machine is sent to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of its own next default
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to.

    Args:
        ray: Ray's module.
        cores: Its CPUs.
        nodes: Its machines.
    """

    ray: Any
    cores: float
    nodes: int


def require_ray() -> Any:
    """Ray's module.

    Raises:
        MissingExtraError: It is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("--ray", "ray") from error
    return ray


def check_address(address: str) -> None:
    """Looks whether this can be a cluster's address.

    Raises:
        UsageError: It is not `auto`, `local`, `HOST:PORT` or `ray://HOST:PORT`.
    """
    if address not in ("auto", "local") and not _PLACE.fullmatch(address):
        raise UsageError(
            f"--ray takes auto, local, HOST:PORT or ray://HOST:PORT, and not {address!r}"
        )


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Cluster]:
    """A cluster for the length of a block; one that is begun here ends with it.

    Args:
        address: `auto` is the cluster that this machine is part of, `local` a new one on this
            machine alone, `HOST:PORT` that of its head, `ray://HOST:PORT` its client server.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no such cluster.
    """
    check_address(address)
    ray = require_ray()
    # Off the main thread, since it takes seconds, and since Ray would take SIGTERM for itself.
    await asyncio.to_thread(_connect, ray, address)
    try:
        nodes = [node for node in await asyncio.to_thread(ray.nodes) if node.get("Alive")]
        resources = await asyncio.to_thread(ray.cluster_resources)
        yield Cluster(ray, float(resources.get("CPU", 0.0)), len(nodes))
    finally:
        await asyncio.to_thread(ray.shutdown)


def _connect(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        quiet["include_dashboard"] = False
    elif place := _PLACE.fullmatch(address):
        _require_answer(address, place[1].strip("[]"), int(place[2]))
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        way = "start one (ray start --head), or use --ray local" if address == "auto" else why
        raise UsageError(f"no Ray cluster can be used at {address}: {way}") from error


def _require_answer(address: str, host: str, port: int) -> None:
    """Asks first, since Ray waits for minutes for what is not there."""
    try:
        socket.create_connection((host, port), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {error}") from error
