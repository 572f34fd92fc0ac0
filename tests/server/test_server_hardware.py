"""Reading what a machine has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.server import amd, nvidia
from joycap_vllm.server.hardware import GIB, Gpu, GpuProcess
from joycap_vllm.server.known import machine
from joycap_vllm.server.looking import look, visible, weights_folder

SMI = """\
0, GPU-1f2e, NVIDIA GeForce RTX 4090, 24564, 357, 23028, 8.9
1, GPU-9a8b, NVIDIA H100 80GB HBM3, 81559, [N/A], 81008, 9.0
2, GPU-dead, [Unknown Error], [N/A], [N/A], [N/A], [N/A]
"""


def test_nvidia_smis_table_is_read_and_broken_cards_are_left_out() -> None:
    first, second = nvidia.parse_smi(SMI)

    assert first.name == "NVIDIA GeForce RTX 4090"
    assert first.capability == (8, 9)
    assert first.total / GIB == pytest.approx(23.64, abs=0.01)
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


def test_a_slice_is_chosen_by_its_own_name_and_all_of_a_gpu_by_its_number() -> None:
    whole = Gpu(0, "GPU-a", "H100", 80 * GIB, 80 * GIB, (9, 0))
    one, two = (
        Gpu(1, f"MIG-{n}", "H100 MIG 3g.40gb", 40 * GIB, 40 * GIB, (9, 0), slice="3g.40gb")
        for n in "bc"
    )

    assert visible((whole, one, two), "1") == (one, two)
    assert visible((whole, one, two), "MIG-c,0") == (two, whole)
    assert (whole.selector, two.selector) == ("0", "MIG-c")


def test_this_machine_has_cores_memory_and_a_place_for_weights(tmp_path: Path) -> None:
    here = look({"HF_HOME": str(tmp_path / "not" / "there")})

    assert here.cores >= 1
    assert here.ram > GIB
    assert here.ram_free is None or 0 < here.ram_free <= here.ram
    assert here.weights == tmp_path / "not" / "there" / "hub"
    assert here.disk_free is not None
    assert here.disk_free > 0


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_weights_go_where_the_hubs_library_puts_them(environ: dict[str, str], folder: str) -> None:
    assert weights_folder(environ) == Path(folder)


class RefusedError(Exception):
    """What NVML raises."""


@dataclass
class Card:
    """A GPU as NVML shows it."""

    name: str | bytes
    total: int
    free: int
    capability: tuple[int, int] = (9, 0)
    slices: list[Card] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    broken: bool = False
    uuid: str = "GPU-0"


class Nvml:
    """The part of pynvml that is asked, over cards made by hand."""

    NVMLError = RefusedError

    def __init__(self, cards: list[Card], *, driver: bool = True, cuda: int | None = 13000) -> None:
        self.cards, self.driver, self.cuda, self.open = cards, driver, cuda, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise RefusedError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if self.cards[index].broken:
            raise RefusedError("GPU is lost")
        return self.cards[index]

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Card:  # noqa: N802
        return card

    def nvmlDeviceGetName(self, card: Card) -> str | bytes:  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:  # noqa: N802
        return card.capability

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        if self.cuda is None:
            raise RefusedError("Function Not Found")
        return self.cuda

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:  # noqa: N802
        if card.capability < (8, 0):
            raise RefusedError("Not Supported")
        return [int(bool(card.slices)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:  # noqa: N802, ARG002
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:  # noqa: N802
        if index >= len(card.slices):
            raise RefusedError("Not Found")
        return card.slices[index]

    def nvmlDeviceGetNvLinkState(self, card: Card, link: int) -> int:  # noqa: N802
        if link >= len(card.links):
            raise RefusedError("Not Supported")
        return card.links[link]

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:  # noqa: N802
        return [Process(*process) for process in card.processes]

    def nvmlSystemGetProcessName(self, pid: int) -> bytes:  # noqa: N802
        if pid == 1:
            raise RefusedError("Not Found")
        return b"/usr/bin/python"


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None  # noqa: N815


def test_nvml_tells_links_processes_driver_and_cuda() -> None:
    held = [(1, None), (77, 3 * GIB)]
    cards = [
        Card(b"NVIDIA H100", 80 * GIB, 77 * GIB, links=[0, 1], processes=held),
        Card("Tesla T4", 15 * GIB, 15 * GIB, (7, 5)),
    ]
    nvml = Nvml(cards)
    found = nvidia.by_nvml(nvml)

    assert found is not None
    assert (found.driver, found.cuda, found.ill, nvml.open) == ("580.65.06", (13, 0), (), 0)
    h100, t4 = found.gpus
    assert (h100.name, h100.nvlink, t4.nvlink) == ("NVIDIA H100", True, False)
    assert h100.processes == (GpuProcess(1), GpuProcess(77, "/usr/bin/python", 3 * GIB))
    assert (t4.index, t4.capability) == (1, (7, 5))


def test_of_a_gpu_under_mig_its_slices_are_shown() -> None:
    pieces = [Card("NVIDIA A100 MIG 3g.20gb", 20 * GIB, 19 * GIB, uuid=f"MIG-{n}") for n in "ab"]
    found = nvidia.by_nvml(Nvml([Card("NVIDIA A100", 40 * GIB, 39 * GIB, (8, 0), pieces)]))

    assert found is not None
    assert [(g.index, g.selector, g.slice) for g in found.gpus] == [
        (0, "MIG-a", "3g.20gb"),
        (0, "MIG-b", "3g.20gb"),
    ]
    assert {gpu.capability for gpu in found.gpus} == {(8, 0)}


def test_a_broken_card_is_told_of_and_the_others_are_used() -> None:
    found = nvidia.by_nvml(Nvml([Card("a", GIB, GIB, broken=True), Card("b", GIB, GIB)], cuda=None))

    assert found is not None
    assert [gpu.name for gpu in found.gpus] == ["b"]
    assert found.ill == ("GPU 0: GPU is lost",)
    assert found.cuda is None


def test_without_a_driver_nvml_says_nothing() -> None:
    assert nvidia.by_nvml(Nvml([], driver=False)) is None


def test_rocm_smis_cards_are_read_and_a_processors_own_graphics_left_out() -> None:
    found = amd.read(
        {
            "card0": {
                "VRAM Total Memory (B)": "206141652992",
                "VRAM Total Used Memory (B)": "309329920",
                "Card Series": "AMD Instinct MI300X",
                "GFX Version": "gfx942",
                "GUID": "51140",
            },
            "card1": {"VRAM Total Memory (B)": "67108864", "Card Series": "Raphael"},
            "card2": {"Card Series": "broken"},
            "system": {"Driver version": "6.12.12"},
        }
    )

    (gpu,) = found.gpus
    assert (gpu.name, gpu.maker, gpu.index) == ("AMD Instinct MI300X (gfx942)", "amd", 0)
    assert gpu.total - gpu.free == 309329920
    assert found.driver == "6.12.12"
