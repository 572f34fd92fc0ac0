"""Whether what runs in this container is well: a gateway answers, anything else is at work.

One image runs every command, and only the gateway has a page to ask. The standard library is
enough, so that a check costs little.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 5.0


def gateway_port(words: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """The port of the gateway that a command line starts; None for any other command."""
    at = next((i for i, word in enumerate(words) if Path(word).name == "joycap"), None)
    if at is None or list(words[at + 1 : at + 2]) != ["gateway"]:
        return None
    flags = words[at + 2 :]
    for number, word in enumerate(flags):
        if word.startswith("--port="):
            return int(word.partition("=")[2])
        if word == "--port" and number + 1 < len(flags):
            return int(flags[number + 1])
    usual = "5000" if "--ai-toolkit" in flags else "8080"
    return int(environ.get("JOYCAP_GATEWAY_PORT") or environ.get("JOYCAP_PORT") or usual)


def ports(proc: Path) -> list[int]:
    """The ports of all gateways that run here."""
    found = set()
    for line in proc.glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it has ended meanwhile
        found.add(gateway_port(words, os.environ))
    return sorted(port for port in found if port is not None)


def main() -> int:
    """0 where all is well, 1 with the reason where it is not."""
    for port in ports(Path("/proc")):
        url = f"http://127.0.0.1:{port}/live"
        try:
            urllib.request.urlopen(url, timeout=SECONDS).close()
        except OSError as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
