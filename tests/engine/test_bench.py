"""`joycap bench` on real vLLM."""

from __future__ import annotations

import json

import pytest

from .conftest import Engine
from forking import run_joycap

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_a_bench_beside_vllm_bench_serve_has_figures_of_both(engine: Engine) -> None:
    words = (
        "bench", "--base-url", engine.url, "--concurrency", "8", "--seconds", "2", "--json",
        "--compare-vllm-bench",
    )  # fmt: skip
    done = run_joycap(words, timeout=200)  # vllm bench serve imports torch, four times
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    turns = told["compare"]["turns"]

    assert told["knee"]["captions_per_second"] > 0
    assert told["knee"]["prompt_tokens_per_second"] > 729 * told["knee"]["captions_per_second"]
    assert told["knee"]["cached_share"] < 0.2, "each drawn picture is new to the server"
    assert 0 < told["knee"]["running"] <= 8
    assert [turn["who"] for turn in turns] == ["joycap", "vllm bench serve"] * 2
    assert all(turn["answers_per_second"] > 0 for turn in turns)
    assert told["compare"]["ratio"] > 0
