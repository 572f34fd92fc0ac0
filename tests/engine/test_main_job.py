"""The main job on real vLLM: sixty pictures, each gets its own caption, through a kill as well."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image

from joycap_vllm import Captioner
from joycap_vllm.fleet import prove

from .conftest import Engine
from draw_pictures import Scene, draw, random_scene
from show_captions import is_right

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

FOLDERS = ("", "with space", "ünïcode/deep", "-leading dash", "new\nline", "quote'\"", "100%{x}")


def make_pictures(root: Path, count: int, seed: int) -> dict[Path, Scene]:
    rng = random.Random(seed)
    pictures = {}
    for number in range(count):
        folder = root / FOLDERS[number % len(FOLDERS)]
        folder.mkdir(parents=True, exist_ok=True)
        scene = random_scene(rng)
        size = rng.choice([(640, 480), (512, 512), (480, 640)])
        path = (
            folder
            / f"{number:03d} {rng.choice(['a', 'ß', '–x', '(1)'])}.{('jpg', 'png')[number % 2]}"
        )
        draw(scene, rng, *size).save(path)
        pictures[path] = scene
    return pictures


def command(*arguments: str | Path) -> list[str]:
    call = "from joycap_vllm.cli import main; main()"
    return [sys.executable, "-c", call, *map(str, arguments)]


def records(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / ".joycap").glob("journal-*.jsonl"))
    return [orjson.loads(row) for file in files for row in file.read_bytes().splitlines(True)]


def test_sixty_pictures_get_their_own_captions_through_a_kill(
    tmp_path: Path, engine: Engine
) -> None:
    pictures = make_pictures(tmp_path, 60, seed=60)
    job = command("caption", tmp_path, "--base-url", engine.url, "--concurrency", "16", "--json")
    first = subprocess.Popen(job, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(records_so_far(tmp_path)) < 30:
        assert first.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.kill()
    first.wait()
    synced = {(r["key"], r["prompt"]) for r in records_so_far(tmp_path)}

    second = subprocess.run(job, capture_output=True, text=True, check=False, timeout=200)
    assert second.returncode == 0, second.stderr
    summary = json.loads(second.stdout)

    counts = Counter((r["key"], r["prompt"]) for r in records(tmp_path))
    assert len(counts) == 60
    assert set(counts.values()) == {1}, "no picture has two outcomes"
    assert summary["skipped"] == len(synced), "nothing that was synced is asked for again"
    assert summary["ok"] + summary["skipped"] == summary["tasks"] == 60
    wrong = [
        (path.name, scene, caption)
        for path, scene in pictures.items()
        if not is_right(caption := path.with_suffix(".txt").read_text(), scene)
    ]
    assert wrong == []


def records_so_far(folder: Path) -> list[dict[str, Any]]:
    """Whole records of a journal that is being written."""
    files = sorted((folder / ".joycap").glob("journal-*.jsonl"))
    rows = [row for file in files for row in file.read_bytes().splitlines(True)]
    return [orjson.loads(row) for row in rows if row.endswith(b"\n")]


def test_several_prompts_of_an_image_share_its_prefix(tmp_path: Path, engine: Engine) -> None:
    make_pictures(tmp_path, 6, seed=6)
    job = command("caption", tmp_path, "--base-url", engine.url, "--dual", "--json")
    done = subprocess.run(job, capture_output=True, text=True, check=False, timeout=100)
    summary = json.loads(done.stdout)

    assert (done.returncode, summary["ok"]) == (0, 12)
    assert summary["tokens"]["cached"] > 6 * 512, "the second prompt of an image comes cheap"


async def test_the_proof_sees_the_exact_prompt(engine: Engine) -> None:
    proof = await prove(engine.url)

    assert proof.ok, proof.problems
    assert (proof.image_tokens, proof.bos_tokens, proof.literal_image) == (729, 1, False)


async def test_the_python_api_captions_a_picture(tmp_path: Path, engine: Engine) -> None:
    (path, scene), *_ = make_pictures(tmp_path, 1, seed=3).items()
    async with Captioner(engine.url) as joy:
        caption = await joy.caption(path, "straightforward")

    assert is_right(caption, scene)


def test_bad_and_odd_pictures_end_as_they_should(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    Image.new("CMYK", (30, 30)).save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (30000, 2), "red").save(tmp_path / "long.png")
    job = command("caption", tmp_path, "--base-url", engine.url, "--json")
    done = subprocess.run(job, capture_output=True, text=True, check=False, timeout=100)
    outcomes = {r["key"]: r["outcome"] for r in records(tmp_path)}

    assert done.returncode == 1
    assert outcomes["empty.jpg"] == outcomes["text.jpg"] == "failed"
    assert outcomes["cmyk.jpg"] in ("ok", "glitched")
    assert outcomes["long.png"] in ("ok", "glitched")
