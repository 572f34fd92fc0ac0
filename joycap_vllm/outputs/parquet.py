"""Captions as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from joycap_vllm.errors import MissingExtraError
from joycap_vllm.outputs.captioned import (
    PROMPT_COLUMNS,
    Asked,
    CaptionedImage,
    Write,
    columns,
    row_of,
)
from joycap_vllm.outputs.files import replacing

_GROUP = 10_000  # rows
_GROUP_TEXT = 1 << 26  # characters of captions that are held at once


@contextmanager
def parquet_writer(path: Path, prompts: Sequence[Asked]) -> Iterator[Write]:
    """A row for every image, captioned or not: the columns of `row_of`, all nullable;
    `recorded`, there in seconds since 1970, is a time here.

    Row groups of at most 10,000 rows, zstd. The file's key-value metadata tell under `joycap`
    which prompt each column of captions answers.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OutputError: The file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("--format parquet", "parquet") from error
    names = [prompt.name for prompt in prompts]
    schema = _schema(pa, names).with_metadata({"joycap": _about(prompts)})
    rows: list[dict[str, Any]] = []
    held = 0
    with (
        replacing(path, make_folders=True) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            nonlocal held
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()
            held = 0

        def write(image: CaptionedImage) -> str:
            nonlocal held
            row = row_of(image, names)
            row["recorded"] = datetime.fromtimestamp(row["recorded"], UTC)
            rows.append(row)
            held += sum(map(len, image.captions.values()))
            if len(rows) == _GROUP or held > _GROUP_TEXT:
                flush()
            return ""

        yield write
        if rows:
            flush()


def _schema(pa: Any, prompts: Sequence[str]) -> Any:
    text, number = pa.string(), pa.int64()
    fields = [("key", text), ("path", text)]
    fields += [
        (column, text) for name in PROMPT_COLUMNS for column in columns(prompts, name).values()
    ]
    fields += [("model", text), ("attempts", number)]
    fields += [("width", number), ("height", number), ("bytes", number)]
    fields += [("sha256", text), ("recorded", pa.timestamp("us", tz="UTC"))]
    return pa.schema(fields)


def _about(prompts: Sequence[Asked]) -> bytes:
    shown = columns([prompt.name for prompt in prompts], "caption")
    return orjson.dumps(
        {shown[p.name]: {"prompt": p.name, "text": p.text, "tags": p.tags} for p in prompts}
    )
