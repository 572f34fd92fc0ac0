"""A plan as commands for a shell (`--shell`), to be run here or on another machine.

The text is complete: it writes our chat template to a file first, since the other machine has no
joycap. The API key is not in it.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from joycap_vllm.server.docker import INSIDE_TEMPLATE
from joycap_vllm.server.flags import TEMPLATE
from joycap_vllm.server.values import Plan, Replica

Shell = Literal["bash", "powershell", "cmd"]
TEMPLATE_FILE = "joycap_chat_template.jinja"
HUB_INSIDE = "/root/.cache/huggingface"


def shell_commands(plan: Plan, shell: Shell) -> str:
    """What to type into `shell`; each replica wants a window of its own."""
    comment = "rem" if shell == "cmd" else "#"
    blocks = [_template(shell)]
    if plan.api_key is not None:
        blocks.append(f"{comment} set VLLM_API_KEY to the key that clients must send")
    for replica in plan.replicas:
        title = f"{comment} {replica.base_url}\n" if len(plan.replicas) > 1 else ""
        blocks.append(title + "\n".join(_command(replica, shell)))
    return "\n\n".join(blocks)


def _template(shell: Shell) -> str:
    if shell == "bash":
        text = TEMPLATE.read_text(encoding="utf-8")
        return f"cat > {TEMPLATE_FILE} <<'END_OF_TEMPLATE'\n{text}END_OF_TEMPLATE"
    coded = base64.b64encode(TEMPLATE.read_bytes()).decode()
    place = f"(Join-Path $PWD '{TEMPLATE_FILE}')"
    write = f"[IO.File]::WriteAllBytes({place}, [Convert]::FromBase64String('{coded}'))"
    return write if shell == "powershell" else f'powershell -NoProfile -Command "{write}"'


def _command(replica: Replica, shell: Shell) -> Iterator[str]:
    if shell == "bash":
        words = [_bash_word(word) for word in replica.argv]
        variables = [f"{name}={shlex.quote(value)}" for name, value in replica.env.items()]
        yield " \\\n".join([" ".join(variables)] * bool(variables) + list(_by_flag(words)))
        return
    if shell == "powershell":
        yield from (f"$env:{name} = {_powershell(value)}" for name, value in replica.env.items())
        words = [_powershell_word(word) for word in _dotted(replica.argv)]
        yield "& " + " ".join(words)
        return
    yield from (f'set "{name}={value}"' for name, value in replica.env.items())
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
    if word == f"{TEMPLATE}:{INSIDE_TEMPLATE}:ro":
        return f'"{here}/{TEMPLATE_FILE}:{INSIDE_TEMPLATE}:ro"'
    if word.endswith(f":{HUB_INSIDE}"):
        return f'"{home}/.cache/huggingface:{HUB_INSIDE}"'
    return quote(word)


def _bash_word(word: str) -> str:
    return _placed(word, "$PWD", "$HOME", shlex.quote)


def _powershell_word(word: str) -> str:
    return _placed(word, "${PWD}", "${HOME}", _powershell)


def _cmd_word(word: str) -> str:
    return _placed(word, "%CD%", "%USERPROFILE%", lambda text: subprocess.list2cmdline([text]))


def _powershell(text: str) -> str:
    if re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        return text
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
