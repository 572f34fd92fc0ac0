"""Connections that reach only the addresses they may, and end at a deadline."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore2

_GLOBAL_V6 = ipaddress.ip_network("2000::/3")  # all that is given out; not fec0::/10
_DOCUMENTED_V6 = ipaddress.ip_network("3fff::/20")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CONNECTIONS = 64

_lock = threading.Lock()
_pools: dict[bool, httpcore2.ConnectionPool] = {}
_ends: ContextVar[float | None] = ContextVar("_ends", default=None)


class OverdueError(Exception):
    """The deadline has passed."""


class RefusedError(Exception):
    """The address is none that may be asked."""


@contextmanager
def deadline(ends: float) -> Iterator[None]:
    """What this thread reads and writes within ends by then, a time of `time.monotonic`."""
    token = _ends.set(ends)
    try:
        yield
    finally:
        _ends.reset(token)


def pool(private: bool) -> httpcore2.ConnectionPool:
    """The connections of all threads; `private` ones may go to addresses that are not public."""
    with _lock:
        if private not in _pools:
            _pools[private] = httpcore2.ConnectionPool(
                ssl_context=httpcore2.default_ssl_context(),  # once, not for each connection
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_CONNECTIONS // 2,
                keepalive_expiry=15.0,
                network_backend=_Guarded(private),
            )
        return _pools[private]


def close_pools() -> None:
    """Closes all connections; new ones can be made afterwards."""
    with _lock:
        while _pools:
            _pools.popitem()[1].close()


class _Guarded(httpcore2.NetworkBackend):
    """Resolves a name once, checks, and connects to the very address that was checked."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        last: Exception | None = None
        for address in self._addresses(host, port):
            try:
                stream = self._plain.connect_tcp(
                    address, port, _left(timeout), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
            else:
                return _Hurried(stream)
        raise last or httpcore2.ConnectError("its name has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name {host} is not known ({error})") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [a for a in addresses if self._private or is_public(a)]
        if addresses and not allowed:
            raise RefusedError(
                f"{host} is not a public address ({addresses[0]}); --allow-private-urls allows it"
            )
        return allowed


class _Hurried(httpcore2.NetworkStream):
    """A connection whose every wait ends at the thread's deadline."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._stream.read(max_bytes, _left(timeout))
        except httpcore2.ReadTimeout:
            _left(timeout)
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        return _Hurried(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    ends = _ends.get()
    if ends is None:
        return timeout
    left = ends - time.monotonic()
    if left <= 0:
        raise OverdueError("it took longer than its time (--url-timeout)")
    return left if timeout is None else min(timeout, left)


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet; those that carry another by that one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_V6 or ip in _DOCUMENTED_V6:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
