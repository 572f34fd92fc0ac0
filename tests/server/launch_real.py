"""A launcher in a process of its own, which a test kills: serves a model with real vLLM."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from joycap_vllm.server import ServeOptions, plan_for, serve_until_stopped


def main() -> int:
    model, port, log_dir = sys.argv[1:]
    plan = plan_for(ServeOptions(model=model, port=int(port), log_dir=Path(log_dir)))
    return asyncio.run(
        serve_until_stopped(
            plan,
            on_line=lambda line: print(line, file=sys.stderr, flush=True),
            on_ready=lambda base_urls: print(*base_urls, flush=True),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
