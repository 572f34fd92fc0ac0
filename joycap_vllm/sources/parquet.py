"""Parquet manifests as streams of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.sources.image import SourceImage
from joycap_vllm.sources.rows import RowReader
from joycap_vllm.sources.store import in_words
from joycap_vllm.sources.streams import is_remote, is_web, noting, open_raw
from joycap_vllm.sources.web import WebRules
from joycap_vllm.sources.webfiles import WebFile

if TYPE_CHECKING:
    import pyarrow.parquet

_BATCH = 8 << 20  # bytes of rows that are held at once, about
_ROWS = 4096
_NAMES = frozenset({"key", "path", "url", "image"})


@dataclass(frozen=True, slots=True)
class ParquetRows:
    """A Parquet manifest, read batch by batch.

    Args:
        name: Its path or URL.
        reader: Makes images of its rows.
        rules: What may be fetched.
        unreadable: Why it could not be read to its end, noted while walking.
    """

    name: str
    reader: RowReader
    rules: WebRules
    unreadable: dict[Path | str, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = True

    @property
    def beside(self) -> bool:
        """Whether its rows may name files of this machine."""
        return not is_remote(self.name)

    def images(self) -> Iterator[SourceImage]:
        """An image for each row; a bad one says why when it is read."""
        image, number = self.reader.image, 0
        with noting(self.unreadable, self.name), open_parquet(self.name, self.rules) as file:
            columns, rows = _wanted(file), _rows_at_once(file)
            for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                names = batch.schema.names
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield image(dict(zip(names, values, strict=True)), number)

    def count(self) -> int | None:
        """Its rows."""
        with noting({}, self.name), open_parquet(self.name, self.rules) as file:
            return int(file.metadata.num_rows)
        return None

    def require(self) -> None:
        """Looks at the file's end, so that what is no manifest is said at once.

        Raises:
            UsageError: It is no Parquet file, or has none of the columns.
        """
        try:
            with open_parquet(self.name, self.rules) as file:
                names = file.schema_arrow.names
        except UsageError:
            raise
        except Exception as error:  # pyarrow and stores raise many kinds
            raise UsageError(f"{self.name} cannot be read as Parquet: {in_words(error)}") from error
        if not {"path", "url", "image"} & set(names):
            raise UsageError(
                f"{self.name} has no column `path`, `url` or `image`; it has {', '.join(names)}"
            )


def open_parquet(name: str, rules: WebRules) -> pyarrow.parquet.ParquetFile:
    """A Parquet file anywhere; only what is asked for is read.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: It cannot be opened.
        ValueError: It is no Parquet file.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "parquet") from error
    source: Any = name
    if is_remote(name):
        source = WebFile(name, rules) if is_web(name) else open_raw(name, rules)
    # With a buffer of its own, pages are read one by one and not a whole row group at once.
    return parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)


def _wanted(file: pyarrow.parquet.ParquetFile) -> list[str]:
    """All columns but those of bytes beside the image, which no template can use."""
    import pyarrow.types as types

    def is_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(is_bytes(kind.field(i).type) for i in range(kind.num_fields))
        if types.is_list(kind) or types.is_large_list(kind):
            return is_bytes(kind.value_type)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    schema = file.schema_arrow
    return [f.name for f in schema if f.name in _NAMES or not is_bytes(f.type)]


def _rows_at_once(file: pyarrow.parquet.ParquetFile) -> int:
    groups = [file.metadata.row_group(i) for i in range(min(8, file.metadata.num_row_groups))]
    rows = sum(group.num_rows for group in groups)
    each = sum(group.total_byte_size for group in groups) / max(rows, 1)
    return max(1, min(_ROWS, int(_BATCH / max(each, 1.0))))
