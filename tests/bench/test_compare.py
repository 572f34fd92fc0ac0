"""`vllm bench serve` beside our client: what it is given, and what is read of it."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from job.helping import make_pictures

from joycap_vllm.bench import GivenPictures, given_pictures
from joycap_vllm.bench.compare import (
    Comparison,
    Turn,
    bench_words,
    vllm_bench_rate,
    write_pictures,
)
from joycap_vllm.errors import JoycapError, UsageError
from joycap_vllm.prompts import build_prompt
from joycap_vllm.server import BenchCommand
from joycap_vllm.sources import open_source

PROMPT = build_prompt("straightforward")
WRITES = (
    "import json, os, sys; words = sys.argv[1:]; at = lambda name: words[words.index(name) + 1]\n"
    "rows = [json.loads(row) for row in open(at('--dataset-path'))]\n"
    "assert all(os.path.exists(row['image_files'][0]) for row in rows)\n"
    "assert os.environ.get('OPENAI_API_KEY') == 'secret'\n"
    "file = os.path.join(at('--result-dir'), at('--result-filename'))\n"
    "json.dump({'completed': len(rows), 'duration': 2.0}, open(file, 'w'))"
)


@pytest.fixture
def pictures(tmp_path: Path) -> GivenPictures:
    make_pictures(tmp_path / "in", 5)
    return given_pictures(open_source([str(tmp_path / "in")]), count=9, most=10**6)


async def test_it_gets_the_pictures_and_its_rate_is_read(
    tmp_path: Path, pictures: GivenPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    sent = write_pictures(tmp_path, pictures, PROMPT, 4)
    words = bench_words(tmp_path, "http://gpu:8000/v1", "joy", PROMPT, 8, sent)
    command = BenchCommand((sys.executable, "-c", WRITES), {})

    assert await vllm_bench_rate(command, words, tmp_path, "secret") == 2.0


async def test_where_it_fails_its_last_words_are_told(tmp_path: Path) -> None:
    command = BenchCommand((sys.executable, "-c", "print('no such flag'); raise SystemExit(3)"), {})

    with pytest.raises(JoycapError, match="no such flag"):
        await vllm_bench_rate(command, [], tmp_path, None)


async def test_where_it_gets_no_answer_there_is_no_rate_to_compare_with(
    tmp_path: Path, pictures: GivenPictures
) -> None:
    nothing = WRITES.replace("len(rows)", "0")
    words = bench_words(tmp_path, "http://gpu:8000/v1", "joy", PROMPT, 8, 1)
    write_pictures(tmp_path, pictures, PROMPT, 1)
    command = BenchCommand((sys.executable, "-c", nothing), {})

    with pytest.raises(JoycapError, match="no answer"):
        await vllm_bench_rate(command, words, tmp_path, "secret")


def test_it_asks_the_same_of_the_same_number_of_pictures(
    tmp_path: Path, pictures: GivenPictures
) -> None:
    assert write_pictures(tmp_path, pictures, PROMPT, 7) == 7
    rows = [json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()]
    words = bench_words(tmp_path, "http://gpu:8000/v1", "joy", PROMPT, 8, 7)
    given = dict(pairwise(words))

    assert {row["prompt"] for row in rows} == {PROMPT.text}
    assert len({row["image_files"][0] for row in rows}) == 7
    assert given["--base-url"] == "http://gpu:8000"
    assert given["--endpoint"] == "/v1/chat/completions"
    assert (given["--temperature"], given["--top-p"]) == ("0.6", "0.9")
    assert (given["--max-concurrency"], given["--num-prompts"]) == ("8", "7")
    assert given["--custom-output-len"] == "512"


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path, pictures: GivenPictures) -> None:
    for path in sorted((tmp_path / "in").rglob("*.png"))[:4]:
        path.unlink()
    assert write_pictures(tmp_path, pictures, PROMPT, 5) == 1

    for path in (tmp_path / "in").rglob("*.png"):
        path.unlink()
    with pytest.raises(UsageError, match="none of the pictures"):
        write_pictures(tmp_path, pictures, PROMPT, 5)


def test_the_best_turn_of_each_counts() -> None:
    turns = (
        Turn("joycap", 8, 40, 20.0),
        Turn("vllm bench serve", 8, 40, 18.0),
        Turn("joycap", 8, 40, 24.0),
        Turn("vllm bench serve", 16, 40, 16.0),
    )
    told = Comparison(turns).as_json()

    assert told["ratio"] == pytest.approx(24 / 18, abs=1e-3)
    assert [turn["level"] for turn in told["turns"]] == [8, 8, 8, 16]
