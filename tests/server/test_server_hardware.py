"""Reading what a machine has."""

from __future__ import annotations

import pytest
from server_help import machine

from joycap_vllm.server.hardware import GIB, look, parse_nvidia_smi, visible

SMI = """\
0, GPU-1f2e, NVIDIA GeForce RTX 4090, 24564, 23028, 8.9
1, GPU-9a8b, NVIDIA H100 80GB HBM3, 81559, 81008, 9.0
2, GPU-dead, [Unknown Error], [N/A], [N/A], [N/A]
"""


def test_nvidia_smis_table_is_read_and_broken_cards_are_left_out() -> None:
    first, second = parse_nvidia_smi(SMI)

    assert first.name == "NVIDIA GeForce RTX 4090"
    assert first.capability == (8, 9)
    assert first.total / GIB == pytest.approx(23.99, abs=0.01)
    assert (second.index, second.uuid) == (1, "GPU-9a8b")


@pytest.mark.parametrize(
    ("setting", "indexes"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-1", [1]),
        ("0,-1,2", [0]),
        ("7", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    setting: str | None, indexes: list[int]
) -> None:
    gpus = machine(*[("GPU", 24, (8, 9))] * 3).gpus

    assert [gpu.index for gpu in visible(gpus, setting)] == indexes


def test_this_machine_has_cores_and_memory() -> None:
    here = look()

    assert here.cores >= 1
    assert here.ram > GIB
