"""A plan as commands for a shell (`--shell`), to be run here or on another machine.

The text is complete: it writes the files that vLLM is given first, since the other machine has no
joycap. The API key is not in it.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from joycap_vllm.server.docker import INSIDE_GUARD, INSIDE_TEMPLATE
from joycap_vllm.server.flags import GUARD, TEMPLATE
from joycap_vllm.server.values import Plan, Replica

Shell = Literal["bash", "powershell", "cmd"]
TEMPLATE_FILE = "joycap_chat_template.jinja"
_NAMES = {TEMPLATE: TEMPLATE_FILE, GUARD: GUARD.name}
HUB_INSIDE = "/root/.cache/huggingface"


def shell_commands(plan: Plan, shell: Shell) -> str:
    """What to type into `shell`; each replica wants a window of its own."""
    comment = "rem" if shell == "cmd" else "#"
    blocks = ["\n".join(f"{comment} {note}" for note in _notes(plan))] if _notes(plan) else []
    blocks.append(f"{comment} vLLM's chat template for JoyCaption\n{_file(TEMPLATE, shell)}")
    if plan.api_key is not None:
        blocks.append(f"{comment} asks for the key where vLLM does not\n{_file(GUARD, shell)}")
        how = {"bash": "export VLLM_API_KEY=…", "powershell": "$env:VLLM_API_KEY = '…'"}
        key = how.get(shell, "set VLLM_API_KEY=…")
        blocks.append(f"{comment} type this first, with the key that clients must send: {key}")
    for replica in plan.replicas:
        title = f"{comment} {replica.base_url}\n" if len(plan.replicas) > 1 else ""
        blocks.append(title + "\n".join(_command(replica, shell)))
    return "\n\n".join(blocks)


def _notes(plan: Plan) -> list[str]:
    notes = [note for note in (*plan.notes, plan.obstacle) if note]
    if Path(plan.shape.model).is_dir():
        notes.append(f"{plan.shape.model} is a folder of this machine: name the one of the other")
    return [line for note in notes for line in note.splitlines()]


def _file(file: Path, shell: Shell) -> str:
    """Writes a file of ours into the folder where the commands are run."""
    name = _NAMES[file]
    if shell == "bash":
        text = file.read_text(encoding="utf-8")
        return f"cat > {name} <<'END_OF_FILE'\n{text}END_OF_FILE"
    coded = base64.b64encode(file.read_bytes()).decode()
    place = f"(Join-Path $PWD '{name}')"
    write = f"[IO.File]::WriteAllBytes({place}, [Convert]::FromBase64String('{coded}'))"
    return write if shell == "powershell" else f'powershell -NoProfile -Command "{write}"'


def _command(replica: Replica, shell: Shell) -> Iterator[str]:
    if shell == "bash":
        words = [_bash_word(word) for word in replica.argv]
        variables = [f"{name}={_bash_word(value)}" for name, value in replica.env.items()]
        yield " \\\n".join([" ".join(variables)] * bool(variables) + list(_by_flag(words)))
        return
    if shell == "powershell":
        for name, value in replica.env.items():
            here = value == str(GUARD.parent)
            quoted = '"${PWD}"' if here else _quoted(value)
            yield f"$env:{name} = {quoted}"
        words = [_powershell_word(word) for word in _dotted(replica.argv)]
        yield "& " + " ".join(words)
        return
    for name, value in replica.env.items():
        yield f'set "{name}={"%CD%" if value == str(GUARD.parent) else value}"'
    yield " ".join(_cmd_word(word) for word in replica.argv)


def _by_flag(words: list[str]) -> Iterator[str]:
    """One line for each flag with its values."""
    line: list[str] = []
    for word in words:
        if word.startswith("-") and line:
            yield " ".join(line)
            line = []
        line.append(word if line or not word.startswith("-") else f"  {word}")
    yield " ".join(line)


def _placed(word: str, here: str, home: str, quote: Callable[[str], str]) -> str:
    """Puts paths of this machine as the other shell knows them: its folder, its home."""
    if word == str(TEMPLATE):
        return quote(TEMPLATE_FILE)
    if word == str(GUARD.parent):
        return f'"{here}"'
    for file, inside in ((TEMPLATE, INSIDE_TEMPLATE), (GUARD, INSIDE_GUARD)):
        if word == f"{file}:{inside}:ro":
            return f'"{here}/{_NAMES[file]}:{inside}:ro"'
    if word.endswith(f":{HUB_INSIDE}"):
        return f'"{home}/.cache/huggingface:{HUB_INSIDE}"'
    return quote(word)


def _bash_word(word: str) -> str:
    return _placed(word, "$PWD", "$HOME", shlex.quote)


def _powershell_word(word: str) -> str:
    return _placed(word, "${PWD}", "${HOME}", _powershell)


def _cmd_word(word: str) -> str:
    return _placed(word, "%CD%", "%USERPROFILE%", _cmd)


def _cmd(text: str) -> str:
    quoted = subprocess.list2cmdline([text])
    return f'"{quoted}"' if quoted == text and re.search(r"[&|<>^()]", text) else quoted


def _powershell(text: str) -> str:
    if re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    """For PowerShell, to which a bare word behind `=` is a command."""
    return "'" + text.replace("'", "''") + "'"


def _dotted(argv: tuple[str, ...]) -> Iterator[str]:
    """JSON as vLLM's dotted flags: Windows PowerShell drops the quotes inside an argument."""
    flag = ""
    for word in argv:
        value = _object(word)
        if value is None:
            if flag:
                yield flag
            flag = word
            continue
        for key, entry in value.items():
            if isinstance(entry, list):
                yield from (part for item in entry for part in (f"{flag}.{key}+", str(item)))
            else:
                yield from (f"{flag}.{key}", str(entry))
        flag = ""
    if flag:
        yield flag


def _object(word: str) -> Mapping[str, object] | None:
    if not word.startswith("{"):
        return None
    try:
        value = json.loads(word)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
