"""From a cell of a dataset to the picture that it holds or names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from PIL import Image

from joycap_vllm.sources import (
    NO_COLUMNS,
    BytesPlace,
    NoPlace,
    Place,
    Places,
    SourceImage,
    WebRules,
    without_login,
)

if TYPE_CHECKING:
    import pyarrow as pa

_DIMENSIONS = (2, 3)  # of an array: height and width, perhaps colours


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns tell what.

    Args:
        path: Paths and URLs.
        bytes: Pictures themselves, taken in place of those if it is named.
        key: Keys; None takes the path or URL, else the digest of the bytes.
        folder: What relative paths are relative to, with its last slash.
        web: What may be fetched.
    """

    path: str = "path"
    bytes: str | None = None
    key: str | None = None
    folder: str = "/"
    web: WebRules = field(default_factory=WebRules)

    @property
    def picture(self) -> str:
        """The column that a picture comes from."""
        return self.path if self.bytes is None else self.bytes

    @property
    def needed(self) -> set[str]:
        """Columns that must be there."""
        return {self.picture} | ({self.key} if self.key else set())


def images_of(batch: pa.Table, columns: Columns, *, rows: bool) -> list[SourceImage]:
    """The pictures of a batch; one that cannot be had says why when it is read.

    Args:
        batch: The rows.
        columns: Which of its columns tell what.
        rows: Whether the other columns are wanted for prompts.
    """
    cells = cells_of(batch.column(columns.picture))
    keys = [None] * len(cells) if columns.key is None else batch.column(columns.key).to_pylist()
    others: list[Mapping[str, Any]] = [NO_COLUMNS] * len(cells)
    if rows:
        others = batch.drop_columns([columns.picture]).to_pylist()
        others = others or [{} for _ in cells]  # no other column, and no row of nothing
    return [
        _image(cell, key, row, columns) for cell, key, row in zip(cells, keys, others, strict=True)
    ]


def cells_of(column: pa.ChunkedArray) -> list[Any]:
    """Its cells: Python's own values, but for pixels, which are arrays of numpy's."""
    import pyarrow as pa

    if not isinstance(column.type, pa.BaseExtensionType):
        return list(column.to_pylist())
    cells: list[Any] = []
    for chunk in column.chunks:  # Ray's own types of tensors
        arrays = chunk.to_numpy(zero_copy_only=False)
        cells.extend(arrays[at] if chunk[at].is_valid else None for at in range(len(chunk)))
    return cells


def _image(cell: Any, key: Any, row: Mapping[str, Any], columns: Columns) -> SourceImage:
    name, place = _found(cell, columns)
    if columns.key is not None:
        if not isinstance(key, str | int) or key == "":
            return SourceImage(name or "", NoPlace(f"its {columns.key!r} is no key"), row)
        return SourceImage(str(key), place, row)
    if name is None and isinstance(place, BytesPlace):
        name = sha256(place.data).hexdigest()
    return SourceImage(without_login(name or ""), place, row)


def _found(cell: Any, columns: Columns) -> tuple[str | None, Place]:
    """The name and the place of a picture."""
    if isinstance(cell, Mapping) and set(cell) >= {"bytes"}:  # as the datasets library keeps them
        name = cell.get("path") or None
        if cell["bytes"] is not None or name is None:
            return name, _found(cell["bytes"], columns)[1]
        cell = name
    if cell is None or (isinstance(cell, str) and not cell):
        return None, NoPlace(f"the column {columns.picture!r} is empty in this row")
    if isinstance(cell, str):
        return cell, Places(columns.folder, columns.web).of(cell)
    if isinstance(cell, bytes | bytearray | memoryview):
        return None, BytesPlace(bytes(cell))
    return None, _pixels(cell, columns.picture)


def _pixels(array: Any, column: str) -> Place:
    """An array as `ray.data.read_images` gives it, as a file that loses nothing."""
    kind = (
        f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', '?')}"
    )
    wrong = NoPlace(f"the column {column!r} holds {kind}, and no path, URL, bytes or 8-bit pixels")
    if getattr(array, "ndim", 0) not in _DIMENSIONS or str(array.dtype) != "uint8":
        return wrong
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    buffer = io.BytesIO()
    try:
        Image.fromarray(array).save(buffer, "PNG", compress_level=0)
    except (TypeError, ValueError, SystemError):
        return wrong
    return BytesPlace(buffer.getvalue())
