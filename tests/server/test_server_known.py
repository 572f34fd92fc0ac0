"""Machines by the names of their GPUs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from joycap_vllm.errors import UsageError
from joycap_vllm.server.known import CARDS, machine, read_machine
from joycap_vllm.server.memory import fit
from joycap_vllm.server.shape import JOYCAPTION


def test_a_machine_is_read_from_the_names_of_its_gpus() -> None:
    mixed = read_machine("RTX-4090x2, rtx-3090")

    assert [gpu.name for gpu in mixed.gpus] == [
        *[CARDS["rtx-4090"][0]] * 2,
        CARDS["rtx-3090"][0],
    ]
    assert [gpu.index for gpu in mixed.gpus] == [0, 1, 2]
    assert len(read_machine("h100x8").gpus) == 8


@pytest.mark.parametrize("text", ["", "rtx", "rtx-4090x", "h100x0", "h100x65", "h100;", "h100 x8"])
def test_what_is_no_machine_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="--machine"):
        read_machine(text)


def test_the_readmes_table_is_what_is_planned() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+)[^|]*\| ([^|]+) \| (\d+) \|$", readme, re.M)
    told = {
        name: (weights, int(captions))
        for names, weights, captions in rows
        for name in re.findall(r"`([\w-]+)`", names)
    }
    planned = {}
    for name, card in CARDS.items():
        with contextlib.suppress(UsageError):
            found = fit(JOYCAPTION, machine(card).gpus[0])
            kind = "16 bits" if found.choice.quantization is None else "fp8"
            too = ", KV cache too" if found.choice.kv_dtype else ""
            planned[name] = (kind + too, found.sequences)

    assert told == planned
