"""Captions for RunPod's jobs, {"input": {"image": BASE64 or URL, "type": ...}}; see README.md."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import runpod
from runpod.serverless.utils.rp_validator import validate

from joycap_vllm import (
    Captioner,
    JoycapError,
    NoEndpointError,
    Prompt,
    build_prompt,
    custom_prompt,
)

JOBS_AT_ONCE = int(os.environ.get("JOBS_AT_ONCE") or 32)
INPUT: dict[str, dict[str, Any]] = {
    "image": {"type": str, "required": True},
    "type": {"type": str, "required": False, "default": "descriptive"},
    "length": {"type": str, "required": False, "default": "any"},
    "words": {"type": int, "required": False, "default": None},
    "extra": {"type": list, "required": False, "default": []},
    "name": {"type": str, "required": False, "default": ""},
    "prompt": {"type": str, "required": False, "default": ""},
    "system_prompt": {"type": str, "required": False, "default": None},
}


class Worker:
    """Answers jobs through one captioner, which the first job opens."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._joy: Captioner | None = None

    async def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The caption, or an error, by which RunPod calls the job failed."""
        checked = validate(job["input"], INPUT)
        if "errors" in checked:
            return {"error": " ".join(checked["errors"])}
        given = checked["validated_input"]
        try:
            prompt = prompt_of(given)
            joy = await self._captioner()
            return {"caption": await joy.caption(image_of(given["image"]), prompt)}
        except NoEndpointError as error:  # another worker may have a GPU that works
            return {"error": str(error), "refresh_worker": True}
        except JoycapError as error:
            return {"error": str(error)}

    async def _captioner(self) -> Captioner:
        async with self._opening:
            if self._joy is None:
                urls = os.environ.get("JOYCAP_BASE_URL", "").split()
                self._joy = await Captioner(*urls).__aenter__()
        return self._joy


def image_of(text: str) -> str:
    """What callers send is an address or base64, and never a file of this worker."""
    return text if text.startswith(("https://", "http://", "data:")) else f"data:;base64,{text}"


def prompt_of(given: dict[str, Any]) -> Prompt:
    """The prompt that a job asks; its own text goes before a caption type."""
    if given["prompt"]:
        return custom_prompt(given["prompt"], system=given["system_prompt"])
    return build_prompt(
        given["type"],
        length=given["length"],
        words=given["words"],
        extras=[str(one) for one in given["extra"]],
        name=given["name"],
        system=given["system_prompt"],
    )


if __name__ == "__main__":
    runpod.serverless.start(
        {"handler": Worker().answer, "concurrency_modifier": lambda _: JOBS_AT_ONCE}
    )
