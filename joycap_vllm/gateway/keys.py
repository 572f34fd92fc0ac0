"""Who may ask: bearer keys from a file."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from joycap_vllm.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The keys of a file: one a line; blank lines and lines that begin with `#` are left out.

    Raises:
        UsageError: The file cannot be read, or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise UsageError(f"the keys file {path} cannot be read: {error.strerror}") from error
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise UsageError(f"the keys file {path} holds no key; write one a line")
    return keys


def allowed(request: Request, keys: Sequence[bytes]) -> bool:
    """Whether the request carries one of the keys; without keys everybody may ask."""
    if not keys:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Every key is compared, so that the time taken does not tell which one came close.
    matches = [hmac.compare_digest(given.strip().encode("latin-1"), key) for key in keys]
    return scheme.lower() == "bearer" and any(matches)
