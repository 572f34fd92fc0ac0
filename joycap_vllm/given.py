"""Pictures as callers in Python give them: a path, an address, bytes, or one that Pillow holds."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

from PIL import Image

from joycap_vllm.errors import ImageError
from joycap_vllm.images import ImagePool, Limits, Picture
from joycap_vllm.sources import FilePlace, Place, WebRules, without_login
from joycap_vllm.sources.image import Base64Place
from joycap_vllm.sources.web import WebPlace

# A path; an http(s) or data: URL as a str; the bytes of a picture file; a picture of Pillow's.
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://|data:", re.IGNORECASE)
_FETCHED_AT_ONCE = 32  # pictures from the web; others wait, and hold up no decoding
_SHOWN = 80  # characters of a name
# Flags in the words of the rooms below, as callers in Python know them.
_FLAGS = {
    "--allow-private-urls allows it": "CaptionerOptions(private_urls=True) allows it",
    "--max-pixels raises it": "CaptionerOptions(limits=Limits(pixels=...)) raises it",
    " (--url-timeout)": "",
    "`image` is no base64": "it is no base64",
    "; a path goes into `path`": "",
}


class Pictures:
    """Has what callers give read and prepared.

    Args:
        pool: Who prepares pictures.
        limits: What is refused.
        private: Whether URLs may lead to addresses inside the network.
    """

    def __init__(self, pool: ImagePool, limits: Limits, *, private: bool) -> None:
        self._pool = pool
        self._most = limits.file_bytes
        self._private = private
        self._fetchers: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Ends the threads, without waiting for servers that are slow."""
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def of(self, image: object, *, sends: int) -> Picture:
        """The picture that `image` stands for, prepared.

        Args:
            image: An `ImageLike`; anything else is refused.
            sends: How many requests about it are sure to be sent.

        Raises:
            ImageError: It cannot be had or used; the text begins with its name.
        """
        given = self._given(image)
        read = given.read
        try:
            if given.far:
                data = await asyncio.get_running_loop().run_in_executor(self._threads(), read)
                read = lambda: data  # noqa: E731
            prepared = await self._pool.prepare(read)
        except ImageError as error:
            raise given.blamed(error) from error
        again = (lambda: self._pool.prepare(read)) if given.again else None
        return Picture(prepared, sends=sends, again=again)

    def _threads(self) -> ThreadPoolExecutor:
        if self._fetchers is None:
            self._fetchers = ThreadPoolExecutor(_FETCHED_AT_ONCE, "joycap-fetch")
        return self._fetchers

    def _given(self, image: object) -> _Given:
        if isinstance(image, Image.Image):
            return _Given(str(getattr(image, "filename", "")), _constant(image))
        if isinstance(image, bytes | bytearray | memoryview):
            return _Given("", _constant(bytes(image)))
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            if isinstance(image, str) and (scheme := _URL.match(image)):
                return self._at_url(image, (scheme[1] or "data").lower())
            if isinstance(name, str):
                return _Given(name, self._reader(FilePlace(name)), again=True)
        raise ImageError(
            "a picture is given as a path, an http(s) URL, bytes, or a PIL image, not as "
            f"{type(image).__module__}.{type(image).__qualname__}"
        )

    def _at_url(self, url: str, scheme: str) -> _Given:
        if scheme == "data":
            return _Given("", self._reader(Base64Place(url)))
        name = without_login(url.partition("?")[0])  # what stands behind may be a secret
        name = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        if scheme in ("http", "https"):
            place = WebPlace(url, WebRules(most=self._most, private=self._private))
            return _Given(name, self._reader(place), far=True)
        raise ImageError(
            f"{name}: {scheme}:// is not read here; open it with fsspec, say, and give the bytes"
        )

    def _reader(self, place: Place) -> Callable[[], bytes]:
        return lambda: place.read(self._most)


class _Given(NamedTuple):
    """A picture that is not read yet.

    Args:
        name: What errors call it; empty where it has no name.
        read: Reads it.
        far: Whether that waits for another machine.
        again: Whether it can be read again for little.
    """

    name: str
    read: Callable[[], bytes | Image.Image]
    far: bool = False
    again: bool = False

    def blamed(self, error: ImageError) -> ImageError:
        words = str(error)
        for flag, way in _FLAGS.items():
            words = words.replace(flag, way)
        return ImageError(f"{self.name}: {words}" if self.name else words)


def _constant(data: bytes | Image.Image) -> Callable[[], bytes | Image.Image]:
    return lambda: data
