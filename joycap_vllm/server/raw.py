"""vLLM's own flags, as a user adds them behind `--`."""

from __future__ import annotations

import re
from difflib import get_close_matches

from joycap_vllm.errors import UsageError
from joycap_vllm.server.command import EngineCommand

# These decide where the server listens and what it serves, which joycap must know as well.
RESERVED = {
    "--host": "use joycap's own --host, before the --",
    "--port": "use joycap's own --port, before the --",
    "--uds": "joycap speaks to its servers over TCP",
    "--model": "give the model to joycap, before the --",
    "--api-key": "arguments can be read by every user of the machine: use --api-key-file",
    "--ssl-keyfile": "put a proxy that speaks TLS before the server",
    "--ssl-certfile": "put a proxy that speaks TLS before the server",
    "--root-path": "joycap reaches its servers without one",
    "--tensor-parallel-size": "each server has one GPU, and there is one for each (--replicas)",
    "--pipeline-parallel-size": "each server has one GPU, and there is one for each (--replicas)",
    "--data-parallel-size": "there is a server for each GPU already (--replicas)",
    "--data-parallel-size-local": "there is a server for each GPU already (--replicas)",
    "--data-parallel-external-lb": "there is a server for each GPU already (--replicas)",
    "--nnodes": "each machine has a joycap serve of its own, and --base-url names them all",
    "--hf-token": "arguments can be read by every user of the machine: set HF_TOKEN",
    "--headless": "a server that cannot be reached cannot caption",
}
_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
}


def flag_name(word: str) -> str | None:
    """The flag in a word, as vLLM's help writes it; None where the word is a value."""
    if not word.startswith("--") or word == "--":
        return None
    # `--limit-mm-per-prompt.image 1` sets a part of a JSON flag.
    name = word.split("=", 1)[0].split(".", 1)[0].replace("_", "-")
    return name.rstrip("+")


def named(raw: tuple[str, ...]) -> frozenset[str]:
    """The flags that a user's words set, under both names of a switch (`--no-x`, `--x`)."""
    names = {name for word in raw if (name := flag_name(word)) is not None}
    names |= {"--quantization" for word in raw if word == "-q" or word.startswith("-q=")}
    if "--quantization" in names:  # ours would speak of another one
        names.add("--quantization-config")
    return frozenset(names | {f"--{name[5:]}" for name in names if name.startswith("--no-")})


def value_of(flag: str, raw: tuple[str, ...]) -> str | None:
    """The (first) value that a user's words give to a flag."""
    for position, word in enumerate(raw):
        if flag_name(word) == flag:
            if "=" in word:
                return word.split("=", 1)[1]
            return raw[position + 1] if position + 1 < len(raw) else None
    return None


def check_raw(raw: tuple[str, ...], command: EngineCommand) -> None:
    """Refuses what only joycap's own flags can set, and what this vLLM does not know.

    Raises:
        UsageError: Names the flag and what to do instead.
    """
    if raw and flag_name(raw[0]) is None and not raw[0].startswith("-"):
        raise UsageError(f"one model at a time, and vLLM's flags behind --: {' '.join(raw)!r}")
    short = (_SHORT.get(re.split(r"[=\d]", word, maxsplit=1)[0]) for word in raw)
    for name in dict.fromkeys(filter(None, (*map(flag_name, raw), *short))):
        if name in RESERVED:
            raise UsageError(f"{name} cannot be given to vLLM directly: {RESERVED[name]}")
        if not command.knows(name):
            close = get_close_matches(name, command.flags or (), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"neither joycap nor vLLM {command.version} knows {name}{hint}")
