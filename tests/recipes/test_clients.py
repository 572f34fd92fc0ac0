"""Clients of the OpenAI API, by the lines of the README: through a gateway, and without one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from .asking import CLIENTS, HERE, asked_by
from .reading import Row, block
from fault_server import Asked, FaultServer, Reaction, say, serving, truthful

COLOR = (200, 40, 80)
CAPTION = "A plain picture in the color c82850."
pytestmark = pytest.mark.xdist_group("readme_gateway")  # these clients take seconds to import


def glitches_first(asked: Asked) -> Reaction:
    """A loop for each first attempt, which those that follow tell by their temperature."""
    first = asked.body["temperature"] == 0.6
    return say("a red car, " * 60) if first else truthful(asked)


@pytest.fixture(scope="session")
def readme_gateway() -> Iterator[str]:
    """`joycap gateway` in front of a server whose first answer is a loop."""
    with serving(glitches_first, model="stub") as server, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        call = "from joycap_vllm.cli import main; main()"
        flags = ["gateway", "--port", str(port), "--base-url", server.url, "--wire", "png"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JOYCAP_")}
        process = subprocess.Popen(
            [sys.executable, "-c", call, *flags],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ready", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.communicate(timeout=20)


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 45
    while time.monotonic() < until:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            if httpx2.get(url, timeout=2).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise TimeoutError(url)


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture that does not fit into one argument of a command."""
    ground = Image.effect_noise((700, 500), 200).convert("RGB")
    ground.paste(COLOR, (150, 100, 550, 400))
    ground.save(tmp_path / "dog.jpg", quality=97)
    assert (tmp_path / "dog.jpg").stat().st_size > 128 << 10
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dog.jpg"


# litellm leaves connections and pydantic's older words to others.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", CLIENTS, ids=lambda row: row.tool)
def test_a_client_gets_a_judged_caption_through_the_gateway(
    row: Row, readme_gateway: str, dog: Path
) -> None:
    assert is_caption(asked_by(row, readme_gateway, "joycaption"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", CLIENTS, ids=lambda row: row.tool)
def test_a_client_reaches_a_server_without_a_gateway(
    row: Row, server: FaultServer, dog: Path
) -> None:
    assert is_caption(asked_by(row, server.url, "fault"))


def test_curl_gets_a_judged_caption_of_a_picture_of_any_size(
    readme_gateway: str, dog: Path
) -> None:
    script = block("sh").replace(HERE, readme_gateway)
    assert readme_gateway in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, check=True, timeout=50
    )
    answer = json.loads(done.stdout)

    assert is_caption(answer["choices"][0]["message"]["content"])
    assert answer["joycap"]["attempts"] == 2


def is_caption(text: str) -> bool:
    """JPEG may change a colour a little."""
    color = bytes.fromhex(text.removeprefix(CAPTION[:-7]).removesuffix("."))
    return all(abs(one - other) <= 4 for one, other in zip(color, COLOR, strict=True))


def test_each_client_of_the_readme_is_here() -> None:
    assert [row.tool for row in CLIENTS] == ["openai", "LangChain", "LiteLLM"]
