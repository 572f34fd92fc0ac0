"""Real vLLM: its prompt, its end, and the template that it must not be served with."""

from __future__ import annotations

import base64
import importlib
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from server_help import alive, free_port, group, wait_until

from joycap_vllm.errors import NoEndpointError
from joycap_vllm.nano import checkpoint_path
from joycap_vllm.server import ServeOptions, engine, plan_for
from joycap_vllm.server.flags import TEMPLATE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SYSTEM = "You are a helpful image captioner."
PROMPT = "Write a descriptive caption for this image in a formal tone."
Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> str:
    """The nano model; JOYCAP_TEST_MODEL names another checkpoint of its kind."""
    return os.environ.get("JOYCAP_TEST_MODEL") or str(checkpoint_path())


class Server:
    """Real vLLM under a launcher of its own."""

    def __init__(self, model: str, folder: Path) -> None:
        launcher = Path(__file__).with_name("launch_real.py")
        self.process = subprocess.Popen(
            [sys.executable, str(launcher), model, str(free_port()), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdout is not None
        self.base_url = self.process.stdout.readline().strip()
        assert self.base_url, "the server did not start; its words are on stderr"

    def group(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        leader = int(children.read_text(encoding="ascii").split()[0])
        return group(leader)

    def prompt_ids(self, messages: Messages) -> list[int]:
        answer = httpx2.post(
            f"{self.base_url}/chat/completions",
            json={
                "model": "joycaption",
                "messages": messages,
                "max_tokens": 1,
                "return_token_ids": True,
            },
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return [int(token) for token in answer.json()["prompt_token_ids"]]

    def exact_ids(self, prompt: str) -> list[int]:
        answer = httpx2.post(
            f"{self.base_url.removesuffix('/v1')}/tokenize",
            json={"model": "joycaption", "prompt": prompt, "add_special_tokens": False},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return [int(token) for token in answer.json()["tokens"]]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(model, tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def picture() -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (384, 384), "teal").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def render_prompt(system: str | None, prompt: str) -> str:
    """The prompt as the training writes it; its module needs what only vLLM's venv has."""
    return str(importlib.import_module("nano_tokenizer").render_prompt(system, prompt))


def collapsed(ids: list[int]) -> list[int]:
    """The ids with the 729 image tokens as one."""
    runs = [(token, len(list(run))) for token, run in itertools.groupby(ids)]
    assert max(length for _, length in runs) == 729
    return [token for token, length in runs for _ in range(1 if length == 729 else length)]


@pytest.mark.parametrize("order", [["picture", "text"], ["text", "picture"]])
@pytest.mark.parametrize("system", [SYSTEM, None])
def test_the_prompt_is_exactly_joycaptions(
    server: Server, order: list[str], system: str | None
) -> None:
    parts = {"picture": picture(), "text": text(PROMPT)}
    messages: Messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": [parts[name] for name in order]})

    assert collapsed(server.prompt_ids(messages)) == server.exact_ids(render_prompt(system, PROMPT))


def test_placeholders_and_image_tokens_in_the_text_do_no_harm(server: Server) -> None:
    dirty = f"<image>\n{PROMPT}<|reserved_special_token_69|>"
    messages: Messages = [{"role": "user", "content": [picture(), text(dirty)]}]

    assert collapsed(server.prompt_ids(messages)) == server.exact_ids(render_prompt(None, PROMPT))


def test_a_second_turn_has_no_second_picture(server: Server) -> None:
    messages: Messages = [
        {"role": "user", "content": [picture(), text(PROMPT)]},
        {"role": "assistant", "content": "A teal plane."},
        {"role": "user", "content": "Shorter."},
    ]
    prompt = (
        f"{render_prompt(None, PROMPT)}A teal plane.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nShorter.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )

    assert collapsed(server.prompt_ids(messages)) == server.exact_ids(prompt)


def test_without_a_picture_there_is_no_image_token(server: Server) -> None:
    ids = server.prompt_ids([{"role": "user", "content": PROMPT}])
    bare = render_prompt(None, PROMPT)
    for number in (70, 69, 71):
        bare = bare.replace(f"<|reserved_special_token_{number}|>", "")

    assert ids == server.exact_ids(bare)


@pytest.mark.parametrize("content", [f"<image>\n{PROMPT}", [{"type": "image"}, text(PROMPT)]])
def test_the_template_renders_strings_and_lists_alike(content: object) -> None:
    sandbox = importlib.import_module("jinja2.sandbox").ImmutableSandboxedEnvironment
    template = sandbox(trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    rendered = template.render(
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}],
        bos_token="<|begin_of_text|>",  # noqa: S106  (no password)
        add_generation_prompt=True,
    )

    assert rendered == render_prompt(SYSTEM, PROMPT)


def test_what_was_planned_is_known_to_this_vllm(model: str) -> None:
    plan = plan_for(ServeOptions(model=model))

    assert plan.command.is_cpu
    assert plan.notes == ()
    assert len(plan.flags) > 12


def test_nobody_outlives_a_killed_launcher(server: Server) -> None:
    """The last test of this server: vLLM's own processes live on when only theirs is killed."""
    pids = server.group()
    server.process.kill()

    assert len(pids) >= 4
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 30)


async def test_the_checkpoints_own_template_fails_the_proof(model: str, tmp_path: Path) -> None:
    own = ("--chat-template", f"{model}/chat_template.jinja")
    options = ServeOptions(
        model=model,
        port=free_port(),
        log_dir=tmp_path,
        raw=(*own, "--chat-template-content-format", "auto"),
    )

    with pytest.raises(NoEndpointError, match="leaves a literal <image> in the prompt"):
        async with engine(plan_for(options), on_line=print):
            pass
