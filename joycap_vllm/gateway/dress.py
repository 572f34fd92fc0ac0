"""The headers that every answer has, which keep browsers from doing more with it than is meant."""

from __future__ import annotations

from collections.abc import Iterable

from joycap_vllm.gateway.pages import POLICY

_RawHeaders = list[tuple[bytes, bytes]]

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_STATIC = "/static/"


def dressed(headers: Iterable[tuple[bytes, bytes]], path: str) -> _RawHeaders:
    """An answer's headers, with those that it lacks.

    Args:
        headers: As the door gave them; what it said stands.
        path: What is answered.
    """
    out = list(headers)
    said = dict(out)
    page = path.startswith(_STATIC) or said.get(b"content-type", b"").startswith(b"text/html")
    # Under `no-referrer` a browser would send a page's own forms as those of nobody (Origin: null).
    referrer = b"same-origin" if page else b"no-referrer"
    policy = POLICY.encode() if page else _NOTHING
    more = (*_ALWAYS, (b"referrer-policy", referrer), (b"content-security-policy", policy))
    out += [row for row in more if row[0] not in said]
    if not path.startswith(_STATIC) and b"cache-control" not in said:
        out.append((b"cache-control", b"no-store"))
    return out
