"""What commands tell users, beside their data: lines of text on stderr, or JSON objects."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

_COMMANDS = ("caption", "retry")  # that have --log-format


class _Form:
    """How lines are written; it is the process's, as stderr is."""

    as_json = False


def talks_json() -> bool:
    """Whether lines are JSON objects."""
    return _Form.as_json


def use_format(name: str) -> str:
    """Sets the form of all lines to come, those of Python's own warnings too: `text` or `json`."""
    _Form.as_json = name == "json"
    if _Form.as_json:
        warnings.showwarning = _show_warning
        logging.basicConfig(handlers=[_Handler()], level=logging.WARNING, force=True)
    return name


def is_json_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line or its environment asks for JSON, however wrong the rest of it is."""
    if arguments[:1] not in [[name] for name in _COMMANDS]:
        return False
    for at, argument in enumerate(arguments):
        if argument == "--log-format":
            return arguments[at + 1 : at + 2] == ["json"]
        if argument.startswith("--log-format="):
            return argument == "--log-format=json"
    return os.environ.get("JOYCAP_LOG_FORMAT") == "json"


LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option(
        envvar="JOYCAP_LOG_FORMAT",
        callback=use_format,
        is_eager=True,
        help="What is told on stderr: text, or a JSON object for each line.",
    ),
]

MetricsPort = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT",
        envvar="JOYCAP_METRICS_PORT",
        help="Show the job's figures to Prometheus at /metrics, on this machine only unless a HOST "
        "is given (extra `metrics`). Default: off.",
    ),
]


def say(
    text: str,
    *,
    event: str = "note",
    level: Literal["info", "warning", "error"] = "info",
    **fields: Any,
) -> None:
    """A line of talk, on stderr; what is no printable text in it is shown escaped.

    Args:
        text: For people.
        event: What kind of line it is, for programs, as are all the others.
        level: How bad it is.
        **fields: Plain data.
    """
    if _Form.as_json:
        import orjson

        whole = {"t": time.time(), "level": level, "event": event, "text": text, **fields}
        typer.echo(orjson.dumps(_unicode(whole), default=str).decode(), err=True)
        return
    shown = "\n".join(printable(line) for line in text.split("\n"))
    typer.echo(shown.encode("utf-8", "backslashreplace").decode(), err=True)


def printable(text: str) -> str:
    """The text in one line, with all that is not printable escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _unicode(value: Any) -> Any:
    """The value with what is no Unicode escaped: names of files may hold any byte."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_unicode(name): _unicode(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_unicode(each) for each in value]
    return value


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(str(message), event="warning", level="warning")


class _Handler(logging.Handler):
    """Says what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        level: Literal["warning", "error"] = "error" if record.levelno >= 40 else "warning"
        say(self.format(record), event="log", level=level, logger=record.name)
