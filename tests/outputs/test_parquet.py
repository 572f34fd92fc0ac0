"""Parquet, read back by pyarrow and datasets."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joycap_vllm.errors import MissingExtraError
from joycap_vllm.outputs import parquet_writer

from .exports import ONE, TEXTS, TWO, image, record, texts


def test_every_prompt_has_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    looped = record("booru", "glitched", glitch="repetition", why="it loops")
    with parquet_writer(path, TWO) as write:
        for text in TEXTS:
            write(image("a", {"prose": text, "booru": "dog"}))
        write(image("b", {"prose": "A cat."}, booru=looped))
        write(image("c", {}, prose=record("prose", "failed", why="no image", image=None)))
    table = pq.read_table(path)

    assert table["caption"].to_pylist() == [*TEXTS, "A cat.", None]
    assert table["caption_booru"].to_pylist() == [*["dog"] * len(TEXTS), None, None]
    assert table["outcome"].to_pylist()[-2:] == ["ok", "failed"]
    assert table["outcome_booru"].to_pylist()[-2:] == ["glitched", "open"]
    assert table["glitch_booru"].to_pylist()[-2:] == ["repetition", ""]
    assert table["attempts"].to_pylist()[-2:] == [2, 1]
    assert table["width"].to_pylist()[-2:] == [40, None]
    assert table["recorded"][0].as_py() == datetime.fromtimestamp(1.7e9, UTC)
    assert json.loads(table.schema.metadata[b"joycap"])["caption_booru"]["text"] == "List tags."


def test_rows_come_in_groups_compressed_with_zstd(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    with parquet_writer(path, ONE) as write:
        for number in range(20_001):
            write(image(f"{number}", {"prose": "A dog."}))
    found = pq.ParquetFile(path).metadata

    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [10_000] * 2 + [1]
    assert found.row_group(0).column(0).compression == "ZSTD"


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    with parquet_writer(tmp_path / "c.parquet", ONE):
        pass

    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_it_is_read_by_datasets(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with parquet_writer(tmp_path / "c.parquet", ONE) as write:
        for text in TEXTS:
            write(image("a", {"prose": text}))
    options: Any = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    rows = load_dataset("parquet", data_files=str(tmp_path / "c.parquet"), split="train", **options)

    assert [row["caption"] for row in rows] == list(TEXTS)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, max_size=5))
def test_any_text_stays_what_it_is(tmp_path: Path, captions: list[str]) -> None:
    with parquet_writer(tmp_path / "c.parquet", ONE) as write:
        for caption in captions:
            write(image("k", {"prose": caption}))

    assert pq.read_table(tmp_path / "c.parquet")["caption"].to_pylist() == captions


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        pytest.raises(MissingExtraError, match=r"joycap-vllm\[parquet\]"),
        parquet_writer(tmp_path / "c.parquet", ONE),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
