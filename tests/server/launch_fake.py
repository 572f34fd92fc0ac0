"""A launcher in a process of its own, which tests kill: serves the fake vLLM until stopped."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from server_help import fake_plan

from joycap_vllm.server import serve_until_stopped


def main() -> int:
    folder, *arguments = sys.argv[1:]
    cleanup: tuple[str, ...] = ()
    if arguments[:1] == ["--cleanup"]:
        cleanup, arguments = ("touch", arguments[1]), arguments[2:]
    plan = fake_plan(Path(folder), *arguments, grace=2)
    plan = replace(plan, replicas=(replace(plan.replicas[0], cleanup=cleanup),))
    print(plan.replicas[0].port, flush=True)
    return asyncio.run(
        serve_until_stopped(
            plan,
            on_line=lambda line: print(line, flush=True),
            on_ready=lambda base_urls: print("ready", *base_urls, flush=True),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
