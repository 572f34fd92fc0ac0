"""What `joycap serve` tells while its servers load, serve and die."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from joycap_vllm.errors import JoycapError

if TYPE_CHECKING:
    from rich.text import Text

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

    def ready(self, urls: tuple[str, ...]) -> None:
        """All servers are ready: their base URLs go to stdout."""
        print(json.dumps(urls), flush=True)
        self._tell("all ready", at=time.time())

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        if isinstance(error, JoycapError):
            self._tell("error", at=time.time(), text=str(error))

    def _tell(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}), file=self._out, flush=True)


class Talk:
    """Lines on stderr; on a terminal, what grows is one line below them that changes."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._stage = _Stage("looking at this machine")
        self._status = self._console.status(self._stage)
        self._live = self._console.is_terminal

    def line(self, text: str) -> None:
        """Words of the launcher or of vLLM."""
        if not self._live:
            print(text, file=sys.stderr, flush=True)
            return
        self._stage.text = text.rpartition("\n")[2].partition("; log: ")[0]
        if not _GROWS.search(text):
            self._console.print(text, soft_wrap=True)

    def change(self, change: Change) -> None:
        """A server's new state; the words come as lines."""
        if self._live and change.state.value in ("died", "starting"):
            self._status.start()
        if self._live and change.state.value == "stopped":
            self._status.stop()

    def ready(self, urls: tuple[str, ...]) -> None:
        """All servers are ready: their base URLs go to stdout."""
        self._status.stop()
        print("\n".join(urls), flush=True)
        print(
            "serving; Ctrl-C here or `joycap serve --stop` anywhere stops",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> Talk:
        if self._live:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()


class _Stage:
    """What goes on and for how long it has; the time is that of the moment when it is drawn."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._began = time.monotonic()

    def __rich__(self) -> Text:
        from rich.text import Text

        words = f"{time.monotonic() - self._began:.0f} s  {self.text}"
        return Text(words, no_wrap=True, overflow="ellipsis")
