"""Rows of manifests as images, and the places that rows and lists name."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from joycap_vllm.sources.image import (
    Base64Place,
    BytesPlace,
    FilePlace,
    NoPlace,
    Place,
    SourceImage,
)
from joycap_vllm.sources.store import StorePlace
from joycap_vllm.sources.streams import is_remote, is_web
from joycap_vllm.sources.web import WebPlace, WebRules

# Stores that are named by the account of whoever runs the job; others could be made to reach any
# host by whoever wrote the rows.
_STORES = frozenset({
    "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf", "memory",
})  # fmt: skip
_LOGIN = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True, slots=True)
class Places:
    """Finds what a manifest or list names.

    Args:
        base: The folder of it, with its last slash; a path or URL.
        rules: What may be fetched.
    """

    base: str
    rules: WebRules

    def of(self, name: str) -> Place:
        """The place of a path, relative to the base or absolute, or of a URL."""
        if "://" in name:
            return self._of_url(name)
        if not is_remote(self.base):
            return FilePlace(name if name.startswith("/") else self.base + name)
        if name.startswith("/"):
            return NoPlace("a manifest of another machine names a path of this one")
        if is_web(self.base):
            return WebPlace(self.base + quote(name), self.rules)
        scheme, _, folder = self.base.partition("://")
        return StorePlace(f"{scheme}://{posixpath.normpath(folder + name)}")

    def _of_url(self, url: str) -> Place:
        scheme = url.partition("://")[0].lower()
        if scheme in ("http", "https"):
            return WebPlace(url, self.rules)
        if scheme == "file" and not is_remote(self.base):
            return FilePlace(file_of(url))
        if scheme in _STORES and "::" not in url:
            return StorePlace(url)
        return NoPlace(f"a row may not name {scheme}:// URLs")


def file_of(url: str) -> str:
    """The path that a file:// URL names."""
    return unquote(urlsplit(url.replace("#", "%23").replace("?", "%3F")).path)


def without_login(url: str) -> str:
    """A URL without a user's name and password."""
    return _LOGIN.sub("", url)


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes images of rows.

    Args:
        title: What a row without any name is called by, with its number: `rows.jsonl#17`.
        places: Where relative paths are.
    """

    title: str
    places: Places

    def image(self, row: Any, number: int) -> SourceImage:
        """The image of a row, which is taken apart; one that cannot be read says why at `read`.

        Args:
            row: A dictionary with `path`, `url` or `image`, perhaps `key`, and other columns.
            number: Its number, from 1.
        """
        if type(row) is not dict:
            return self.bad(number, "the row is no JSON object")
        pop = row.pop
        key, path, url, data = (
            pop("key", None), pop("path", None), pop("url", None), pop("image", None),
        )  # fmt: skip
        name: str | None
        if data is None and type(path) is str and path:
            name, place = path, self.places.of(path)
        else:
            name, place = self._place(path or None, url or None, data)
        if key is None:
            if not name:
                return SourceImage(f"{self.title}#{number}", place, row)
            return SourceImage(without_login(name) if "@" in name else name, place, row)
        if type(key) is str and key:
            return SourceImage(key, place, row)
        return SourceImage(name or f"{self.title}#{number}", NoPlace("its `key` is no text"), row)

    def bad(self, number: int, why: str) -> SourceImage:
        """An image of a row that says nothing."""
        return SourceImage(f"{self.title}#{number}", NoPlace(why))

    def _place(self, path: Any, url: Any, data: Any) -> tuple[str | None, Place]:
        """The name and place of what is no simple path; bytes are nearest, so they come first."""
        inner = None
        if type(data) is dict:  # as the datasets library keeps images
            data, inner = data.get("bytes"), data.get("path") or None
        for name in (path, url, inner):
            if name is not None and type(name) is not str:
                return None, NoPlace("its `path` or `url` is no text")
        name = path or url or inner
        if isinstance(data, bytes):
            return name, BytesPlace(data)
        if isinstance(data, str):
            return name, Base64Place(data)
        if data is not None:
            return name, NoPlace(f"its `image` is {type(data).__name__}, and no bytes or base64")
        if name is None:
            return None, NoPlace("the row has no `path`, `url` or `image`")
        return name, self.places.of(name)
