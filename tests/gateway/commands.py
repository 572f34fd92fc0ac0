"""`joycap gateway` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path


@contextlib.asynccontextmanager
async def command(
    *flags: str | Path, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with these flags and variables; it is killed should it outlive the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from joycap_vllm.cli import main; main()",
        "gateway",
        *map(str, flags),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
