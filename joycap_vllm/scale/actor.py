"""One process of a Ray job: a captioner of its own, used by every batch that comes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec

from joycap_vllm.captioner import Captioner, CaptionerOptions, Outcome
from joycap_vllm.errors import ImageError, UsageError
from joycap_vllm.prompts import Prompt

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row's picture is: in `bytes` if that is named, else at `path`."""

    path: str
    bytes: str | None = None

    @property
    def needed(self) -> str:
        return self.path if self.bytes is None else self.bytes


class CaptionActor:
    """What `map_batches` calls, several batches at once on one event loop."""

    def __init__(
        self,
        urls: tuple[str, ...],
        options: CaptionerOptions,
        prompts: tuple[Prompt, ...],
        columns: Columns,
    ) -> None:
        self._captioner = Captioner(*urls, options=options)
        self._prompts = prompts
        self._columns = columns
        self._open: asyncio.Task[Captioner] | None = None

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
            self._open = asyncio.create_task(self._captioner.__aenter__())
        await asyncio.shield(self._open)
        pictures = batch.column(self._columns.needed).to_pylist()
        rows = await asyncio.gather(*(self._row(picture) for picture in pictures))
        for number, suffix in enumerate(suffixes):
            batch = _with_outcomes(batch, [row[number] for row in rows], suffix)
        yield batch

    async def _row(self, picture: Any) -> list[Outcome]:
        try:
            prepared = await self._captioner.pool.prepare(self._reader(picture))
        except ImageError as error:
            return [Outcome("failed", None, why=str(error)) for _ in self._prompts]
        key = picture if self._columns.bytes is None else prepared.sha256
        return await asyncio.gather(
            *(self._captioner.outcome(prepared, prompt, key=key) for prompt in self._prompts)
        )

    def _reader(self, picture: Any) -> Callable[[], bytes]:
        if picture is None:
            return lambda: _missing(self._columns.needed)
        if self._columns.bytes is None:
            return lambda: _read(str(picture))
        return lambda: bytes(picture)


def _check(batch: pa.Table, columns: Columns, suffixes: list[str]) -> None:
    there = set(batch.column_names)
    if columns.needed not in there:
        raise UsageError(f"the dataset has no column {columns.needed!r}, but {sorted(there)}")
    new = {f"{name}{suffix}" for suffix in suffixes for name in _types()}
    if taken := sorted(there & new):
        raise UsageError(f"the dataset has columns that captions need: {', '.join(taken)}")


def _types() -> dict[str, pa.DataType]:
    """Types are given, since a batch in which every value is null would have another type."""
    import pyarrow as pa

    text = pa.string()
    return {"caption": text, "outcome": text, "glitch": text, "why": text, "attempts": pa.int32()}


def _with_outcomes(batch: pa.Table, outcomes: list[Outcome], suffix: str) -> pa.Table:
    import pyarrow as pa

    values: dict[str, list[Any]] = {
        "caption": [o.caption if o.outcome == "ok" else None for o in outcomes],
        "outcome": [o.outcome for o in outcomes],
        "glitch": [o.glitch for o in outcomes],
        "why": [o.why for o in outcomes],
        "attempts": [len(o.attempts) for o in outcomes],
    }
    for name, kind in _types().items():
        batch = batch.append_column(f"{name}{suffix}", pa.array(values[name], kind))
    return batch


def _read(path: str) -> bytes:
    try:
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read()
            return data
    except (OSError, ValueError, ImportError) as error:
        # fsspec says in these that a scheme is unknown, or which package would know it.
        raise ImageError(f"{path} cannot be read: {error}") from error


def _missing(column: str) -> bytes:
    raise ImageError(f"the column {column!r} is empty in this row")
