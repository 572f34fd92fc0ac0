"""The planner on hand-made machines: what fits, and how."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from machines import A100_80, H100, RTX_3090, RTX_4060, RTX_4070, RTX_4080, RTX_4090
from planning import CPU, NANO, flags_of, plan_on, values, why
from server_help import COMMAND

from joycap_vllm.errors import UsageError
from joycap_vllm.server import ServeOptions, explain
from joycap_vllm.server.hardware import GIB, Gpu, GpuProcess, Hardware
from joycap_vllm.server.known import machine
from joycap_vllm.server.memory import Quantization, fit
from joycap_vllm.server.shape import JOYCAPTION


def test_every_flag_and_variable_has_a_reason() -> None:
    for plan in (plan_on(machine(RTX_4090)), plan_on(machine(), command=CPU, shape=NANO)):
        assert all(len(flag.why) > 5 for flag in (*flags_of(plan), *plan.env))


def test_the_context_comes_from_the_work_and_the_arithmetic_is_told() -> None:
    plan = plan_on(machine(H100))

    assert values(plan)["--max-model-len"] == "2048"
    assert "729" in why(plan, "--max-model-len")
    assert "= 1803 tokens" in why(plan, "--max-model-len")


def test_an_h100_gets_bf16_and_large_batches() -> None:
    flags = values(plan_on(machine(H100)))

    assert "--quantization" not in flags
    assert flags["--max-num-batched-tokens"] == "16384"
    assert flags["--gpu-memory-utilization"] == "0.92"
    assert 300 < int(str(flags["--max-num-seqs"])) <= 512


def test_an_a100_gets_bf16_and_more_than_vllms_own_batch() -> None:
    flags = values(plan_on(machine(A100_80)))

    assert "--quantization" not in flags
    assert flags["--max-num-batched-tokens"] == "16384"


def test_a_4090_gets_fp8_without_the_vision_tower() -> None:
    plan = plan_on(machine(RTX_4090))
    flags = values(plan)

    assert flags["--quantization"] == "fp8_per_channel"
    assert json.loads(str(flags["--quantization-config"])) == {
        "ignore": ["vision_tower.*", "multi_modal_projector.*"]
    }
    assert flags["--max-num-batched-tokens"] == "8192"
    assert 64 <= int(str(flags["--max-num-seqs"])) <= 96
    assert "in 16 bits there is room for 33 captions" in why(plan, "--quantization")


def test_a_3090_does_not_compute_in_8_bits_and_takes_bf16_with_few_sequences() -> None:
    flags = values(plan_on(machine(RTX_3090)))

    assert "--quantization" not in flags
    assert 8 <= int(str(flags["--max-num-seqs"])) < 40


def test_an_older_card_with_little_memory_stores_weights_in_8_bits_and_computes_in_16() -> None:
    plan = plan_on(machine(("NVIDIA RTX A4000", 15.99, (8, 6))))

    assert values(plan)["--quantization"] == "fp8_per_block"
    assert "no arithmetic in 8" in why(plan, "--quantization")


def test_a_card_without_bfloat16_computes_in_float16() -> None:
    plan = plan_on(machine(("Tesla T4", 14.6, (7, 5))))

    assert values(plan)["--dtype"] == "float16"
    assert why(plan, "--dtype") == "this GPU has no bfloat16"


def test_sixteen_gigabytes_with_fp8_are_enough() -> None:
    assert values(plan_on(machine(RTX_4080)))["--quantization"] == "fp8_per_channel"


def test_twelve_gigabytes_are_enough_with_all_in_8_bits() -> None:
    flags = values(plan_on(machine(RTX_4070)))

    assert flags["--quantization"] == "fp8_per_channel"
    assert flags["--kv-cache-dtype"] == "fp8"
    assert int(str(flags["--max-num-seqs"])) >= 16


def test_eight_gigabytes_are_refused_in_plain_words_with_what_would_fit() -> None:
    words = r"joycaption does not fit on GPU 0 \(NVIDIA GeForce RTX 4060\): .* needs 10\.0 GiB"
    with pytest.raises(UsageError, match=words) as told:
        plan_on(machine(RTX_4060))

    assert "12 GB are enough" in str(told.value)


def test_a_card_that_is_too_old_for_vllm_is_refused() -> None:
    with pytest.raises(UsageError, match=r"too old for vLLM: its compute capability is 7\.0"):
        plan_on(machine(("Tesla V100-SXM2-32GB", 32, (7, 0))))


def test_what_others_hold_is_named_where_the_model_does_not_fit() -> None:
    hardware = machine(RTX_4090)
    comfy = GpuProcess(4711, "/usr/bin/python3.12", 16 * GIB)
    gpu = replace(hardware.gpus[0], free=7 * GIB, processes=(comfy,))

    with pytest.raises(UsageError, match=r"other processes hold 16\.6 GiB .*\(python3\.12\): end"):
        plan_on(replace(hardware, gpus=(gpu,)))


def test_a_gpu_that_others_use_is_shared() -> None:
    hardware = machine(H100)
    gpu = replace(hardware.gpus[0], free=40 * GIB)
    plan = plan_on(replace(hardware, gpus=(gpu,)))

    assert values(plan)["--gpu-memory-utilization"] == "0.49"
    assert "other processes hold 39.1 GiB" in why(plan, "--gpu-memory-utilization")


def test_what_is_asked_for_wins() -> None:
    options = ServeOptions(max_model_len="4k", max_num_seqs=7, quantization="none")
    flags = values(plan_on(machine(RTX_4090), options))

    assert flags["--max-model-len"] == "4k"
    assert flags["--max-num-seqs"] == "7"
    assert "--quantization" not in flags


def test_fp8_by_hand_works_where_bf16_would_do() -> None:
    flags = values(plan_on(machine(H100), ServeOptions(quantization="fp8")))

    assert flags["--quantization"] == "fp8_per_channel"


def test_fp8_needs_a_vllm_that_can_spare_the_vision_tower() -> None:
    old = replace(COMMAND, flags=frozenset({"--quantization"}), version="0.10.0")

    with pytest.raises(UsageError, match=r"vLLM 0\.10\.0 cannot leave the vision tower"):
        plan_on(machine(RTX_4090), command=old)


def test_flags_that_this_vllm_does_not_know_are_left_out_and_named() -> None:
    old = replace(COMMAND, flags=frozenset({"--max-model-len", "--served-model-name"}))
    plan = plan_on(machine(H100), command=old)

    assert set(values(plan)) == {"--max-model-len", "--served-model-name"}
    assert "vLLM 0.32.0 has no --shutdown-timeout: left out" in plan.notes


def test_each_gpu_gets_a_server_with_a_port_of_its_own() -> None:
    plan = plan_on(machine(H100, H100))

    assert [replica.base_url for replica in plan.replicas] == [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8001/v1",
    ]
    assert [replica.env["CUDA_VISIBLE_DEVICES"] for replica in plan.replicas] == ["0", "1"]


def test_gpus_can_be_chosen() -> None:
    plan = plan_on(machine(H100, H100, H100), ServeOptions(gpus=(2, 0), replicas=1))

    assert [replica.env["CUDA_VISIBLE_DEVICES"] for replica in plan.replicas] == ["2"]


def test_each_gpu_gets_the_flags_that_fit_it() -> None:
    hardware = machine(H100, H100, RTX_3090)
    busy = replace(hardware.gpus[1], free=60 * GIB)
    plan = plan_on(replace(hardware, gpus=(hardware.gpus[0], busy, hardware.gpus[2])))
    shares = [
        next(flag.value for flag in flags_of(plan, n) if flag.name == "--gpu-memory-utilization")
        for n in range(3)
    ]

    assert shares == ["0.92", "0.74", "0.92"]
    assert "flags of server 2" in explain(plan)


def test_a_gpu_that_is_too_small_is_left_out_where_another_will_do() -> None:
    plan = plan_on(machine(RTX_4060, RTX_4090))

    assert [replica.env["CUDA_VISIBLE_DEVICES"] for replica in plan.replicas] == ["1"]
    assert plan.replicas[0].port == 8000
    assert any("left out: joycaption does not fit on GPU 0" in note for note in plan.notes)
    with pytest.raises(UsageError, match="does not fit on GPU 0"):
        plan_on(machine(RTX_4060, RTX_4090), ServeOptions(gpus=(0, 1)))


def test_each_slice_of_a_gpu_gets_a_server_that_sees_it_alone() -> None:
    slices = tuple(
        Gpu(0, f"MIG-{n}", "NVIDIA H100 MIG 3g.40gb", 40 * GIB, 40 * GIB, (9, 0), slice="3g.40gb")
        for n in "ab"
    )
    plan = plan_on(Hardware(slices, 16, 64 * GIB))

    assert [r.env["CUDA_VISIBLE_DEVICES"] for r in plan.replicas] == ["MIG-a", "MIG-b"]


def test_amds_gpus_are_chosen_by_amds_variable_and_keep_to_vllms_dtype() -> None:
    mi300 = Gpu(0, "x", "AMD Instinct MI300X", 192 * GIB, 191 * GIB, (0, 0), maker="amd")
    plan = plan_on(Hardware((mi300,), 16, 64 * GIB))

    assert plan.replicas[0].env["HIP_VISIBLE_DEVICES"] == "0"
    assert "--dtype" not in values(plan)
    assert int(str(values(plan)["--max-num-seqs"])) == 512


@pytest.mark.parametrize(
    ("card", "quantization", "tokens", "captions"),
    [
        # From the arithmetic that was done by hand before: weights of 17 GB in bf16, 128 KiB of
        # KV cache for a token, 1,100 tokens for a caption. It took 9 GB for weights of 8 bits; the
        # vocabulary's two matrices stay in 16, which makes 10.
        (H100, "none", 430_000, 390),
        (("24 GB", 24e9 / GIB, (8, 9)), "none", 28_000, 26),
        (("24 GB", 24e9 / GIB, (8, 9)), "fp8", 94_000, 85),
    ],
)
def test_the_arithmetic_is_that_of_the_model(
    card: tuple[str, float, tuple[int, int]], quantization: Quantization, tokens: int, captions: int
) -> None:
    found = fit(JOYCAPTION, machine(card).gpus[0], quantization)

    assert found.kv_tokens == pytest.approx(tokens, rel=0.15)
    assert found.captions == pytest.approx(captions, rel=0.16)
