"""The `joycap` command: one file for each subcommand; they parse, call and print."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from joycap_vllm import __version__, errors
from joycap_vllm.cli.batch import app as batch
from joycap_vllm.cli.bench import bench
from joycap_vllm.cli.caption import caption
from joycap_vllm.cli.doctor import doctor
from joycap_vllm.cli.export import export
from joycap_vllm.cli.gateway import gateway
from joycap_vllm.cli.lint import lint
from joycap_vllm.cli.prompts import prompts
from joycap_vllm.cli.report import report
from joycap_vllm.cli.retry import retry
from joycap_vllm.cli.serve import serve
from joycap_vllm.cli.status import status
from joycap_vllm.cli.talk import is_json_asked, say, talks_json, use_format
from joycap_vllm.cli.teaching import help_of
from joycap_vllm.cli.top import top

EXIT_CODES: tuple[tuple[type[errors.JoycapError], int], ...] = (
    (errors.UsageError, 2),
    (errors.NoEndpointError, 3),
    (errors.SettingsChangedError, 4),
    (errors.EngineError, 5),
    (errors.JoycapError, 1),
)
INTERRUPTED = 130

app = typer.Typer(
    name="joycap",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Captions image collections with JoyCaption on vLLM. Start with `joycap caption FOLDER`; "
    "`joycap COMMAND --help` tells all of a command, with examples and exit codes.",
)
RAW = {"allow_extra_args": True, "ignore_unknown_options": True}

_COMMANDS: dict[str, Callable[..., None]] = {
    "caption": caption,
    "serve": serve,
    "prompts": prompts,
    "lint": lint,
    "retry": retry,
    "report": report,
    "status": status,
    "export": export,
    "doctor": doctor,
    "top": top,
    "gateway": gateway,
    "bench": bench,
}
for _name, _command in _COMMANDS.items():
    _settings = RAW if _name == "serve" else None
    app.command(_name, help=help_of(_name, _command), context_settings=_settings)(_command)
app.add_typer(batch, name="batch")
_CONNECTIONS = 16_384  # open files that thousands of requests in flight may take


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"joycap {__version__}")
        raise typer.Exit


@app.callback()
def _joycap(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Kept so that options before the subcommand work."""


def with_default_model(arguments: list[str]) -> list[str]:
    """Gives `--serve` without a value the default model."""
    if arguments[:1] not in (["caption"], ["retry"], ["lint"], ["bench"]):
        return arguments
    filled: list[str] = []
    for at, argument in enumerate(arguments):
        filled.append(argument)
        if argument == "--serve":
            following = arguments[at + 1] if at + 1 < len(arguments) else "-"
            if following.startswith("-") or _is_input(following):
                filled.append("default")
    return filled


def _is_input(argument: str) -> bool:
    """Whether it is a picture or a folder of pictures, and not a folder that holds a model."""
    path = Path(argument)
    return path.exists() and not (path / "config.json").exists()


def main() -> None:
    """Entry point of the `joycap` command; ends the process with a code of the design.

    Where stdout cannot be written (a full disk, a reader that went away) that is 1. A stream that
    is closed is like /dev/null.
    """
    _open_closed_streams()
    _allow_connections()
    if is_json_asked(sys.argv[1:]):
        use_format("json")
    try:
        _run(with_default_model(sys.argv[1:]))
    except errors.JoycapError as error:
        code = next(code for kind, code in EXIT_CODES if isinstance(error, kind))
        _tell(str(error), code)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is not None:
            raise
        if not isinstance(error, BrokenPipeError):
            _tell(f"the output cannot be written: {error.strerror or error}", 1)
        # What is left in the buffers would fail once more when they are closed.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    if not talks_json():
        app(args=arguments, prog_name="joycap")
        return
    try:
        sys.exit(app(args=arguments, prog_name="joycap", standalone_mode=False))
    except Exception as error:
        if not hasattr(error, "format_message"):  # else it is of the parser's errors
            raise
        _tell(error.format_message(), 2)
        sys.exit(2)


def _tell(text: str, code: int) -> None:
    with contextlib.suppress(OSError):
        if talks_json():
            say(text, event="error", level="error", exit_code=code)
        else:
            typer.echo(f"joycap: {text}", err=True)


def _allow_connections() -> None:
    """A connection is an open file, and many systems allow a thousand unless they are asked."""
    try:
        import resource
    except ImportError:  # Windows counts otherwise
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _CONNECTIONS if hard == resource.RLIM_INFINITY else min(_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open_closed_streams() -> None:
    """Else the next file that is opened would take the stream's number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
