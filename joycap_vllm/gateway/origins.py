"""Whom a browser speaks for: the gateway's own pages, a page that is trusted, or any other.

Every page that a user opens can send requests to this machine. A browser says where they come from
(`Origin`, `Sec-Fetch-Site`); programs that are no browsers say nothing, and are let through to
where keys are asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

# Names that only this machine's resolver answers, so that no page can have them.
_HERE = frozenset({"localhost", "host.docker.internal", "host.containers.internal"})
_EXPOSED = b"x-joycap-attempts, x-joycap-glitches, retry-after"
_PREFLIGHT_LASTS = b"600"  # seconds
_LONGEST = 1024  # bytes of a list of headers that a page asks to send

RawHeaders = Mapping[bytes, bytes]


def known_host(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header is one that the gateway is reached by.

    A page whose name was made to point to this machine sends its own name. Addresses are no names,
    so they are all good.

    Args:
        host: As sent, with or without a port.
        names: Further names, in small letters.
    """
    name = _name_of(host)
    return name in _HERE or name.endswith(".localhost") or name in names or _is_address(name)


def is_foreign(headers: RawHeaders, method: str) -> bool:
    """Whether a browser sends this for a page of another origin.

    To follow a link to a page is not: the other page gets to see nothing of it.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        linked = method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        whole = headers.get(b"sec-fetch-dest", b"document") == b"document"
        return site not in (b"same-origin", b"none") and not (linked and whole)
    origin = headers.get(b"origin")
    return origin is not None and not _same(origin, headers.get(b"host", b""))


def is_own(headers: RawHeaders) -> bool:
    """Whether a browser says that this comes from one of the gateway's own pages."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    origin = headers.get(b"origin")
    return origin is not None and _same(origin, headers.get(b"host", b""))


def is_preflight(headers: RawHeaders, method: str) -> bool:
    """Whether a browser asks what a page may send."""
    return method == "OPTIONS" and b"access-control-request-method" in headers


def preflight_headers(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What a trusted page may send: anything, with any headers of its own."""
    asked = headers.get(b"access-control-request-headers", b"authorization, content-type")
    told = [
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", asked[:_LONGEST]),
        (b"access-control-max-age", _PREFLIGHT_LASTS),
    ]
    if b"access-control-request-private-network" in headers:
        told.append((b"access-control-allow-private-network", b"true"))
    return told


def sharing_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Lets a trusted page read the answer; its cookies are never asked for."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def _same(origin: bytes, host: bytes) -> bool:
    """The scheme is left out: what ends TLS before the gateway is not seen from here."""
    scheme, mark, rest = origin.lower().partition(b"://")
    usual = {b"http": b":80", b"https": b":443"}.get(scheme)
    if not mark or usual is None:
        return False  # as `null`
    return rest.removesuffix(usual) == host.lower().removesuffix(usual)


def _name_of(host: str) -> str:
    name = host.strip().lower()
    if name.startswith("["):
        inner, _, port = name[1:].partition("]")
        return inner if not port or port[0] == ":" else name
    return name.rpartition(":")[0].rstrip(".") if name.count(":") == 1 else name.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
