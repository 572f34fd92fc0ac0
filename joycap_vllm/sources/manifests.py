"""JSONL manifests and lists of paths as streams of images."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from joycap_vllm.sources.image import NoPlace, SourceImage
from joycap_vllm.sources.keys import escaped_name, escaped_text
from joycap_vllm.sources.rows import Places, RowReader, without_login
from joycap_vllm.sources.streams import count_lines, is_remote, lines_of, noting, open_unpacked
from joycap_vllm.sources.web import WebRules


@dataclass(frozen=True, slots=True)
class JsonlRows:
    """A JSONL manifest, plain or gzip.

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
        """An image for each row that is not blank; a bad one says why when it is read."""
        import orjson

        loads, image, bad = orjson.loads, self.reader.image, self.reader.bad
        with noting(self.unreadable, self.name), open_unpacked(self.name, self.rules) as stream:
            for number, line in enumerate(lines_of(stream), 1):
                if line is None:
                    yield bad(number, "the row is too long")
                    continue
                try:
                    row = loads(line)
                except ValueError as error:
                    if line.strip():
                        yield bad(number, f"the row is no JSON: {error}")
                    continue
                yield image(row, number)

    def count(self) -> int | None:
        """Its lines; None where that takes fetching it."""
        return count_lines(self.name, self.rules)


@dataclass(frozen=True, slots=True)
class PathList:
    """A text file that names an image a line; lines that begin with `#` are comments.

    Args:
        name: Its path or URL.
        root: The folder that keys of files are relative to, with its last slash.
        places: Where relative paths are.
        rules: What may be fetched.
        unreadable: Why it could not be read to its end, noted while walking.
    """

    name: str
    root: str
    places: Places
    rules: WebRules
    unreadable: dict[Path | str, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = True

    @property
    def beside(self) -> bool:
        """Whether its rows may name files of this machine."""
        return not is_remote(self.name)

    def images(self) -> Iterator[SourceImage]:
        """The images in the order of the lines."""
        with noting(self.unreadable, self.name), open_unpacked(self.name, self.rules) as stream:
            for number, line in enumerate(lines_of(stream), 1):
                if line is None:
                    key = f"{escaped_text(posixpath.basename(self.name))}#{number}"
                    yield SourceImage(key, NoPlace("the line is too long"))
                elif named := named_in(line):
                    yield self._image(named)

    def count(self) -> int | None:
        """Its lines; None where that takes fetching it."""
        return count_lines(self.name, self.rules)

    def _image(self, name: str) -> SourceImage:
        if "://" in name:
            return SourceImage(escaped_name(without_login(name)), self.places.of(name))
        if "://" in self.name:
            return SourceImage(escaped_name(name), self.places.of(name))
        path = os.path.normpath(os.path.join(self.places.base, name))  # noqa: PTH118
        key = path.removeprefix(self.root)
        return SourceImage(escaped_name(key), self.places.of(path))


def named_in(line: bytes) -> str | None:
    """The path or URL that a line of a list names; None of a blank line and of a comment."""
    line = line.strip()
    return None if not line or line.startswith(b"#") else os.fsdecode(line)
