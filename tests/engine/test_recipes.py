"""Other tools' clients at a real vLLM."""

from __future__ import annotations

import random
from pathlib import Path

import httpx2
import pytest
from recipes.asking import CLIENTS, asked_by
from recipes.reading import Row

from joycap_vllm import build_prompt

from .conftest import Engine
from draw_pictures import draw, random_scene
from show_captions import is_right

pytestmark = [pytest.mark.engine, pytest.mark.timeout(150)]


@pytest.mark.filterwarnings("ignore")  # of these clients, not of ours
@pytest.mark.parametrize("row", CLIENTS, ids=lambda row: row.tool)
def test_the_line_of_the_readme_gets_a_caption(
    row: Row, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    scene = random_scene(rng)
    draw(scene, rng).save(tmp_path / "dog.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    model = httpx2.get(f"{engine.url}/models").json()["data"][0]["id"]
    caption = asked_by(row, engine.url, model, build_prompt("straightforward").text)

    assert is_right(caption.strip(), scene), caption
