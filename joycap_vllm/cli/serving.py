"""What `joycap serve` tells while its servers load, serve and die."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from joycap_vllm.server import Change

# Lines that come again and again while something grows.
_GROWS = re.compile(r"\d+%(?:\||\s*Completed)|^Downloading .*%")


class Events:
    """Everything as a JSON line on stderr: `{"event": "log" | "ready" | a state, ...}`."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr

    def line(self, text: str) -> None:
        """Words of the launcher or of vLLM."""
        self._tell("log", at=time.time(), text=text)

    def change(self, change: Change) -> None:
        """A server's new state."""
        told = asdict(change)
        self._tell(told.pop("state"), **told)

    def ready(self) -> None:
        """All servers are ready."""
        self._tell("all ready", at=time.time())

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _tell(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}), file=self._out, flush=True)


class Talk:
    """Lines on stderr; on a terminal, what grows is one line below them that changes."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._status = self._console.status("looking at this machine")
        self._live = self._console.is_terminal
        self._began = time.monotonic()

    def line(self, text: str) -> None:
        """Words of the launcher or of vLLM."""
        if not self._live:
            print(text, file=sys.stderr, flush=True)
        elif _GROWS.search(text):
            self._status.update(self._with_time(text))
        else:
            self._console.print(text, soft_wrap=True)
            self._status.update(self._with_time(text.splitlines()[-1] if text else ""))

    def change(self, change: Change) -> None:
        """A server's new state; the words come as lines."""
        if self._live and change.state.value in ("died", "starting"):
            self._status.start()
        if self._live and change.state.value == "stopped":
            self._status.stop()

    def ready(self) -> None:
        """All servers are ready."""
        self._status.stop()
        print("serving; Ctrl-C stops", file=sys.stderr, flush=True)

    def __enter__(self) -> Talk:
        if self._live:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _with_time(self, text: str) -> str:
        width = max(20, self._console.width - 16)
        return f"{text[:width]} · {time.monotonic() - self._began:.0f} s"
