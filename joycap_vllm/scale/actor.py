"""One process of a Ray dataset: a captioner of its own, used by every batch that comes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from joycap_vllm.captioner import Captioner, CaptionerOptions, Outcome
from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.images import Prepared
from joycap_vllm.job.crew import Asked, Order, OwnCrew
from joycap_vllm.job.filling import values_of
from joycap_vllm.prompts import Prompt, ask
from joycap_vllm.scale.cells import Columns, images_of
from joycap_vllm.scale.gate import Gate
from joycap_vllm.sources import SourceImage

if TYPE_CHECKING:
    import pyarrow as pa


class CaptionActor:
    """What `map_batches` calls, several batches at once on one event loop."""

    def __init__(
        self,
        urls: tuple[str, ...],
        options: CaptionerOptions,
        prompts: tuple[Prompt, ...],
        columns: Columns,
    ) -> None:
        Image.MAX_IMAGE_PIXELS = None  # pictures are held against their own limit, unread
        self._captioner = Captioner(*urls, options=options)
        self._prompts = prompts
        self._columns = columns
        self._open: asyncio.Task[tuple[OwnCrew, Gate]] | None = None

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """The batch with its captions.

        Raises:
            UsageError: A column is missing, or there already.
            NoEndpointError: No endpoint can be reached, or none passes its check.
        """
        suffixes = [f"_{p.name}" for p in self._prompts] if len(self._prompts) > 1 else [""]
        _check(batch, self._columns, suffixes)
        # The first batch opens the session, on the loop that all batches share; the others wait
        # for it. Ray ends the process, and the sessions with it, when the job is done.
        if self._open is None:
            self._open = asyncio.create_task(self._opened())
        crew, gate = await asyncio.shield(self._open)
        wanted = any(prompt.template for prompt in self._prompts)
        images = images_of(batch, self._columns, rows=wanted)
        rows = await asyncio.gather(*(self._row(image, crew, gate) for image in images))
        for number, suffix in enumerate(suffixes):
            batch = _with_outcomes(batch, [row[number] for row in rows], suffix)
        yield batch

    async def _opened(self) -> tuple[OwnCrew, Gate]:
        await self._captioner.__aenter__()
        crew = OwnCrew(self._captioner, len(self._prompts))
        return crew, Gate(lambda: crew.room)

    async def _row(self, image: SourceImage, crew: OwnCrew, gate: Gate) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}

        async def told(asked: Asked, outcome: Outcome, _: Prepared) -> None:
            outcomes[asked.prompt.name] = outcome

        async with gate:
            try:
                asked = [Asked(p, ask(p, image.key, values_of(image, p))) for p in self._prompts]
                await crew.ask(Order(image, tuple(asked)), told)
            except ImageError as error:
                return [Outcome("failed", None, why=str(error)) for _ in self._prompts]
        return [outcomes[prompt.name] for prompt in self._prompts]


def _check(batch: pa.Table, columns: Columns, suffixes: list[str]) -> None:
    there = set(batch.column_names)
    if missing := sorted(columns.needed - there):
        raise UsageError(f"the dataset has no column {missing[0]!r}, but {sorted(there)}")
    new = {f"{name}{suffix}" for suffix in suffixes for name in types()}
    if taken := sorted(there & new):
        raise UsageError(f"the dataset has columns that captions need: {', '.join(taken)}")


def types() -> Mapping[str, pa.DataType]:
    """The columns that captions add, with their types: a batch in which every value is null would
    have another one."""
    import pyarrow as pa

    text, count = pa.string(), pa.int32()
    return {
        "caption": text,
        "outcome": text,
        "glitch": text,
        "why": text,
        "attempts": count,
        "finish": text,
        "model": text,
        "prompt_tokens": count,
        "completion_tokens": count,
    }


def _with_outcomes(batch: pa.Table, outcomes: list[Outcome], suffix: str) -> pa.Table:
    import pyarrow as pa

    values: dict[str, list[Any]] = {
        "caption": [o.caption if o.outcome == "ok" else None for o in outcomes],
        "outcome": [o.outcome for o in outcomes],
        "glitch": [o.glitch for o in outcomes],
        "why": [o.why for o in outcomes],
        "attempts": [len(o.attempts) for o in outcomes],
        "finish": [o.finish for o in outcomes],
        "model": [o.model for o in outcomes],
        "prompt_tokens": [o.usage.prompt for o in outcomes],
        "completion_tokens": [o.usage.completion for o in outcomes],
    }
    for name, kind in types().items():
        batch = batch.append_column(f"{name}{suffix}", pa.array(values[name], kind))
    return batch
