"""Small pictures for the grid: made when they are looked at, kept in the user's cache folder."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import secrets
import textwrap
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs

from joycap_vllm.errors import ImageError, OutputError
from joycap_vllm.gateway.review.files import Inside, digest
from joycap_vllm.job.thumbnails import small_jpeg

SIDES = {"grid": 320, "large": 1280}  # pixels
_LARGEST = 1 << 28  # bytes of a file
_MOST = 2 << 30  # bytes of the cache
_KEPT = 0.8  # part of them that is left when it is full
_SELDOM = 2000  # pictures made between two looks at its size
_REMEMBERED = 10_000  # reasons why pictures cannot be shown


class Thumbs:
    """Makes and keeps small pictures.

    Args:
        folder: The cache; None takes the user's.
        workers: Pictures made at once.
    """

    def __init__(self, folder: Path | None = None, workers: int | None = None) -> None:
        self._folder = folder or platformdirs.user_cache_path("joycap-vllm") / "thumbnails"
        workers = workers or min(os.cpu_count() or 1, 4)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="joycap-thumb")
        self._room = asyncio.Semaphore(workers)
        self._making: dict[str, asyncio.Future[bytes]] = {}
        self._reasons: OrderedDict[str, str] = OrderedDict()
        self.made = 0

    async def get(self, inside: Inside, path: Path, version: str, side: int) -> bytes:
        """A JPEG of the picture.

        Args:
            inside: The folders that may be used.
            path: The picture.
            version: As `version_of` gave it.
            side: Pixels of its longer side at most.

        Raises:
            ImageError: It cannot be shown; the text tells why.
        """
        name = digest(f"{os.fspath(path)}\0{version}\0{side}".encode("utf-8", "surrogatepass"))
        if why := self._reasons.get(name):
            raise ImageError(why)
        place = self._folder / name[:2] / f"{name}.jpg"
        loop = asyncio.get_running_loop()
        kept = await loop.run_in_executor(None, _read, place)
        if kept is not None:
            return kept
        if name not in self._making:
            await self._room.acquire()  # whoever leaves while waiting here costs nothing
            if name in self._making:  # somebody else was first
                self._room.release()
            else:
                making = loop.run_in_executor(self._threads, self._make, inside, path, side, place)
                self._making[name] = making
                making.add_done_callback(lambda done: self._made(name, done))
        return await asyncio.shield(self._making[name])

    def _made(self, name: str, done: asyncio.Future[bytes]) -> None:
        self._room.release()
        self._making.pop(name, None)
        error = None if done.cancelled() else done.exception()
        if isinstance(error, ImageError):
            self._reasons[name] = str(error)
            while len(self._reasons) > _REMEMBERED:
                self._reasons.popitem(last=False)

    def _make(self, inside: Inside, path: Path, side: int, place: Path) -> bytes:
        try:
            with inside.opened(path) as (file, status):
                small = small_jpeg(file, side) if status.st_size <= _LARGEST else b""
        except (ImageError, OutputError) as error:
            raise ImageError(str(error)) from error
        except OSError as error:
            raise ImageError(error.strerror or "it is no picture, or a damaged one") from error
        except Exception as error:
            raise ImageError(f"it cannot be decoded: {error}") from error
        if not small:
            raise ImageError("the file is too large to be shown")
        self._keep(place, small)
        return small

    def _keep(self, place: Path, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.parent.mkdir(exist_ok=True)
            temporary = place.with_suffix(f".{secrets.token_hex(4)}")
            temporary.write_bytes(data)
            temporary.replace(place)
            if self.made % _SELDOM == 0:
                _make_room(self._folder)
        self.made += 1


def version_of(inside: Inside, path: Path) -> str:
    """Another text for a file that was changed; empty where there is none that may be used."""
    try:
        status = inside.real(path).stat()
    except (OSError, OutputError, ValueError):
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def placeholder(why: str) -> bytes:
    """A drawing that says why there is no picture."""
    why = why[:1].upper() + why[1:]
    lines = textwrap.wrap(why, 30, max_lines=6) or ["no picture"]
    spans = "".join(
        f'<tspan x="160" dy="{20 if number else 0}">{html.escape(line)}</tspan>'
        for number, line in enumerate(lines)
    )
    top = 126 - 10 * len(lines)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240" width="320" height="240">'
        '<rect width="320" height="240" fill="#77797e"/>'
        f'<text y="{top}" fill="#ffffff" font-family="sans-serif" font-size="15" '
        f'text-anchor="middle">{spans}</text></svg>'
    ).encode("utf-8", "replace")


def _read(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except OSError:
        return None


def _make_room(folder: Path) -> None:
    """Removes the oldest where there are too many."""
    found = []
    for each in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            status = each.stat()
            found.append((status.st_mtime, status.st_size, each))
    total = sum(size for _, size, _ in found)
    if total <= _MOST:
        return
    for _, size, path in sorted(found):
        path.unlink(missing_ok=True)
        total -= size
        if total <= _KEPT * _MOST:
            return
