"""Whether a server that has been ready still works: a process may live on and answer nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2

from joycap_vllm.errors import EngineError

_COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")


@dataclass(frozen=True, slots=True)
class Pulse:
    """How it is felt.

    Args:
        every: Seconds between two looks.
        deaf: Looks in a row at which it answers nothing, after which it is given up.
        look: Seconds that an answer to a look may take.
        patience: Seconds that it may take for a single token, where meanwhile nobody else gets one.
    """

    every: float = 30.0
    deaf: int = 3
    look: float = 10.0
    patience: float = 300.0


async def until_hung(base_url: str, model: str, api_key: str | None, pulse: Pulse) -> EngineError:
    """Looks at a server for as long as it works; the error says how it does not any more.

    Nothing is asked of an engine whose counts of tokens move; else it is asked for a single token.

    Args:
        base_url: The server.
        model: The name that it serves.
        api_key: Its key.
        pulse: How often, and how patiently.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    silent, before = 0, ""
    async with httpx2.AsyncClient(headers=headers, timeout=pulse.look, trust_env=False) as client:
        while True:
            await asyncio.sleep(pulse.every)
            counts = await _counts(client, base_url)
            silent = silent + 1 if counts is None else 0
            if silent >= pulse.deaf:
                return EngineError(f"vLLM lives and answered none of {silent} looks in a row")
            if counts is None or counts != before:
                before = counts or ""
                continue
            writes = await _writes(client, base_url, model, pulse.patience)
            if not writes and await _counts(client, base_url) == before:
                return EngineError(f"vLLM lives and wrote no token in {pulse.patience:g} s")


async def _counts(client: httpx2.AsyncClient, base_url: str) -> str | None:
    """The lines that move while it works; None where it does not answer."""
    try:
        page = await client.get(f"{base_url.removesuffix('/v1')}/metrics")
    except httpx2.HTTPError:
        return None
    return "\n".join(line for line in page.text.splitlines() if line.startswith(_COUNTERS))


async def _writes(client: httpx2.AsyncClient, base_url: str, model: str, seconds: float) -> bool:
    """Whether it answers in time, be it with an error; a broken connection is for the next look."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        async with asyncio.timeout(seconds):
            await client.post(f"{base_url}/chat/completions", json=body, timeout=seconds + 10)
    except TimeoutError:
        return False
    except httpx2.HTTPError:
        return True
    return True
