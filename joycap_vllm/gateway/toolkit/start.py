"""Where AI-Toolkit looks for its captioning service, and what its variables say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from joycap_vllm.errors import UsageError

_PORT = 5000  # of the service
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Defaults:
    """What stands where no flag says otherwise.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        model: The model's name at the servers; None takes what they list.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    model: str | None = None


def toolkit_defaults(variables: Mapping[str, str]) -> Defaults:
    """The service's own defaults, and what CAPTION_HOST, CAPTION_PORT and CAPTION_MODEL say.

    Raises:
        UsageError: CAPTION_PORT is no port.
    """
    port = variables.get("CAPTION_PORT") or str(_PORT)
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _LAST_PORT):
        raise UsageError(f"CAPTION_PORT is a port from 1 to {_LAST_PORT}, not {port!r}")
    host = variables.get("CAPTION_HOST") or Defaults().host
    return Defaults(host, int(port), variables.get("CAPTION_MODEL") or None)
