"""Clients of the OpenAI API, by the lines of the README: through a gateway, and without one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from .asking import CLIENTS, COLOR, HERE, asked_by, is_caption, judging_gateway
from .reading import Row, block
from fault_server import FaultServer

pytestmark = pytest.mark.xdist_group("readme_gateway")  # these clients take seconds to import


@pytest.fixture(scope="session")
def readme_gateway() -> Iterator[str]:
    with judging_gateway() as url:
        yield url


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


def test_each_client_of_the_readme_is_here() -> None:
    assert [row.tool for row in CLIENTS] == ["openai", "LangChain", "LiteLLM"]
