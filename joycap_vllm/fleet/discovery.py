"""Where the endpoints of a fleet are named while it runs: a file, or a name in DNS.

A listing that cannot be read, is empty or half written keeps the endpoints that it named before.
"""

from __future__ import annotations

import abc
import asyncio
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joycap_vllm.errors import UsageError
from joycap_vllm.fleet.endpoint import normal_url

_DNS = "dns+http://"
_DEADLINE = 5.0  # seconds for a name to be looked up
_MOST = 1_000_000  # bytes of a file of URLs


class Listing(abc.ABC):
    """Names endpoints.

    Args:
        source: The file or the name, as it was given.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.urls: tuple[str, ...] = ()
        self.problem = ""

    async def look(self) -> tuple[str, ...]:
        """The base URLs that are named by now, each once; those of before where that cannot be
        told, and then `problem` says why."""
        try:
            found = await self._find()
        except _UnclearError as error:
            self.problem = str(error)
        else:
            self.urls, self.problem = tuple(dict.fromkeys(found)), ""
        return self.urls

    @abc.abstractmethod
    async def _find(self) -> tuple[str, ...]:
        """What is named now.

        Raises:
            _UnclearError: That cannot be told.
        """


class _UnclearError(Exception):
    """What is named cannot be told."""


def listing_of(source: str) -> Listing:
    """A file with a base URL on each line, or every address of `dns+http://NAME:PORT`.

    Raises:
        UsageError: It is neither.
    """
    if source.startswith("dns+https:"):
        raise UsageError(
            f"{source}: certificates name hosts, not addresses, so https endpoints cannot be found "
            "through DNS; name them in a file: --endpoints FILE"
        )
    if source.startswith(_DNS):
        return _Name(source)
    if "://" in source:
        raise UsageError(
            f"--endpoints takes a file of base URLs or dns+http://NAME:PORT, not {source}; one "
            "server is given with --base-url"
        )
    return _File(source)


class _File(Listing):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._stamp: tuple[int, ...] = ()

    async def _find(self) -> tuple[str, ...]:
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[str, ...]:
        try:
            with Path(self.source).open("rb") as file:
                about = os.fstat(file.fileno())
                stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
                if stamp == self._stamp:
                    return self.urls
                data = file.read(_MOST + 1)
        except OSError as error:
            raise _UnclearError(f"{self.source} cannot be read: {error.strerror}") from error
        if len(data) > _MOST:
            raise _UnclearError(f"{self.source} is too large for a list of base URLs")
        urls = self._parsed(data.decode("utf-8", "replace").removeprefix("\ufeff"))
        if not urls:
            raise _UnclearError(f"{self.source} names no base URL")
        self._stamp = stamp
        return urls

    def _parsed(self, text: str) -> tuple[str, ...]:
        urls = []
        for number, line in enumerate(text.splitlines(), 1):
            url = line.partition("#")[0].strip()
            try:
                if url:
                    urls.append(normal_url(url))
            except UsageError as error:
                raise _UnclearError(f"{self.source}, line {number}: {error}") from error
        return tuple(urls)


class _Name(Listing):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        parts = urlsplit(normal_url(source.removeprefix("dns+")))
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._lookup: asyncio.Task[list[tuple[Any, ...]]] | None = None

    async def _find(self) -> tuple[str, ...]:
        if self._lookup is None:  # a lookup that hangs holds one thread, never more
            self._lookup = asyncio.create_task(self._asked())
        await asyncio.wait({self._lookup}, timeout=_DEADLINE)
        if not self._lookup.done():
            raise _UnclearError(f"{self._host} is not looked up within {_DEADLINE:.0f} s")
        lookup, self._lookup = self._lookup, None
        try:
            hosts = sorted({str(row[4][0]) for row in lookup.result()})
            named = (f"[{host}]" if ":" in host else host for host in hosts)
            return tuple(normal_url(f"http://{host}:{self._port}{self._path}") for host in named)
        except (OSError, UnicodeError, UsageError) as error:
            raise _UnclearError(f"{self._host} has no address: {error}") from error

    async def _asked(self) -> list[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        return list(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
