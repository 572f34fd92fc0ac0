"""Damaged checkpoints are told of before they are loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from joycap_vllm.errors import EngineError
from joycap_vllm.nano import checkpoint_path
from joycap_vllm.server.files import check_files


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def other(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 100)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, r"model\.safetensors is damaged: 5,000 of its bytes are missing"),
        (empty, "it has 0 bytes and no whole header"),
        (other, "no whole header"),
        (no_weights, "holds no weights"),
        (no_tokenizer, "holds no tokenizer"),
    ],
)
def test_what_is_damaged_is_told(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_path(), folder)
    check_files(folder)
    damage(folder)

    with pytest.raises(EngineError, match=words):
        check_files(folder)


def test_a_name_on_the_hub_is_not_looked_at() -> None:
    check_files(Path("owner/name"))
