"""The commands for other shells and machines."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from joycap_vllm.server import Plan, ServeOptions, Shell, shell_commands
from joycap_vllm.server.command import docker, elsewhere
from joycap_vllm.server.flags import GUARD, TEMPLATE
from joycap_vllm.server.known import machine
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import JOYCAPTION

GPU = machine(("NVIDIA GeForce RTX 4090", 24, (8, 9)))
ECHO = '#!/bin/sh\nprintf \'%s\\n\' "$VLLM_HTTP_TIMEOUT_KEEP_ALIVE" "$@" > said\n'


def plan(raw: tuple[str, ...] = (), *, in_docker: bool = False) -> Plan:
    command = docker() if in_docker else elsewhere()
    return make_plan(GPU, command, JOYCAPTION, ServeOptions(raw=raw, api_key="a-secret"))


def test_bash_runs_exactly_the_planned_command(tmp_path: Path) -> None:
    made = plan(("--hf-overrides", '{"a": "it\'s $HOME"}'))
    fake = tmp_path / "vllm"
    fake.write_text(ECHO, encoding="utf-8")
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = shell_commands(made, "bash")
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=env, check=True)
    keep_alive, *words = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    written = tmp_path / "joycap_chat_template.jinja"

    assert keep_alive == "120"
    assert words == [
        written.name if word == str(TEMPLATE) else word for word in made.replicas[0].argv[1:]
    ]
    assert written.read_bytes() == TEMPLATE.read_bytes()
    assert (tmp_path / GUARD.name).read_bytes() == GUARD.read_bytes()


def test_powershell_gets_no_json_and_single_quotes() -> None:
    text = shell_commands(plan(("--override", "it's")), "powershell")

    assert "--limit-mm-per-prompt.image 1 " in text
    assert "--quantization-config.ignore+ 'vision_tower.*'" in text
    assert "--override 'it''s'" in text
    assert "$env:VLLM_HTTP_TIMEOUT_KEEP_ALIVE = '120'" in text
    assert '{"image"' not in text


def test_cmd_gets_set_lines_and_escaped_quotes() -> None:
    text = shell_commands(plan(), "cmd")

    assert 'set "VLLM_HTTP_TIMEOUT_KEEP_ALIVE=120"' in text
    assert '--limit-mm-per-prompt {\\"image\\":1}' in text
    assert max(len(line) for line in text.splitlines()) < 8191  # the longest that cmd takes


@pytest.mark.parametrize("shell", ["powershell", "cmd"])
def test_windows_shells_write_the_template_first(shell: Shell) -> None:
    coded = re.findall(r"FromBase64String\('([^']+)'\)", shell_commands(plan(), shell))

    assert [base64.b64decode(code) for code in coded] == [TEMPLATE.read_bytes(), GUARD.read_bytes()]


def test_docker_mounts_what_the_other_machine_has() -> None:
    text = shell_commands(plan(in_docker=True), "bash")

    assert '"$PWD/joycap_chat_template.jinja:/joycap/chat_template.jinja:ro"' in text
    assert '"$HOME/.cache/huggingface:/root/.cache/huggingface"' in text
    assert str(TEMPLATE) not in text


@pytest.mark.parametrize("shell", ["bash", "powershell", "cmd"])
@pytest.mark.parametrize("in_docker", [False, True])
def test_the_api_key_is_asked_for_and_never_printed(shell: Shell, in_docker: bool) -> None:
    text = shell_commands(plan(in_docker=in_docker), shell)

    assert "a-secret" not in text
    assert "VLLM_API_KEY" in text
    assert "with the key that clients must send" in text
    assert str(GUARD.parent) not in text


def test_what_the_other_machine_must_know_stands_in_the_text() -> None:
    nowhere = make_plan(machine(), elsewhere(), JOYCAPTION, ServeOptions())
    text = shell_commands(nowhere, "bash")

    assert text.startswith("# no GPU is visible here: memory share, batch sizes")
