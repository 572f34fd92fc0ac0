"""The planner on hand-made machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from machines import A100_80, H100, RTX_3090, RTX_4060, RTX_4070, RTX_4080, RTX_4090, machine
from server_help import COMMAND

from joycap_vllm.errors import UsageError
from joycap_vllm.server import Flag, Plan, ServeOptions, explain
from joycap_vllm.server.command import EngineCommand, docker, elsewhere
from joycap_vllm.server.hardware import GIB, Gpu, GpuProcess, Hardware
from joycap_vllm.server.memory import Quantization, fit
from joycap_vllm.server.plan import make_plan
from joycap_vllm.server.shape import JOYCAPTION, ModelShape, nano_shape, shape_of

CPU = EngineCommand(("python", "-m", "entry"), True, "0.32.0", True, None)
NANO = replace(JOYCAPTION, model="/nano", served="joycap-nano", weights=1_250_000, kv_per_token=256)


def plan_on(
    hardware: Hardware,
    options: ServeOptions | None = None,
    command: EngineCommand = COMMAND,
    shape: ModelShape = JOYCAPTION,
    **more: object,
) -> Plan:
    environ = {str(name): str(value) for name, value in more.items()}
    return make_plan(hardware, command, shape, options or ServeOptions(), environ=environ)


def values(plan: Plan) -> dict[str, str | tuple[str, ...] | None]:
    return {flag.name: flag.value for flag in flags_of(plan)}


def flags_of(plan: Plan, number: int = 0) -> tuple[Flag, ...]:
    """All flags of one of its servers."""
    return (*plan.flags, *plan.replicas[number].flags)


def why(plan: Plan, name: str) -> str:
    return next(flag.why for flag in (*flags_of(plan), *plan.env) if flag.name == name)


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
    assert "in 16 bits there is room for 36 captions" in why(plan, "--quantization")


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

    with pytest.raises(UsageError, match=r"other processes hold 17\.0 GiB .*\(python3\.12\): end"):
        plan_on(replace(hardware, gpus=(gpu,)))


def test_a_gpu_that_others_use_is_shared() -> None:
    hardware = machine(H100)
    gpu = replace(hardware.gpus[0], free=40 * GIB)
    plan = plan_on(replace(hardware, gpus=(gpu,)))

    assert values(plan)["--gpu-memory-utilization"] == "0.49"
    assert "other processes hold 39.6 GiB" in why(plan, "--gpu-memory-utilization")


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ServeOptions(replicas=3), "3 replicas need 3 GPUs, and 2 can be used"),
        (ServeOptions(gpus=(4,)), "no GPU 4 is visible here; visible: 0, 1"),
        (ServeOptions(host="0.0.0.0"), "give --api-key-file, or --insecure"),
        (ServeOptions(port=70000), "no such port"),
        (ServeOptions(raw=("--port", "1")), "use joycap's own --port"),
        (ServeOptions(raw=("--api-key=x",)), "use --api-key-file"),
        (ServeOptions(raw=("-tp", "2")), "each server has one GPU"),
        (ServeOptions(raw=("--data_parallel_size=2",)), "a server for each GPU already"),
        (ServeOptions(raw=("more", "words")), "one model at a time"),
    ],
)
def test_contradictions_are_told(options: ServeOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_on(machine(H100, H100), options)


@pytest.mark.parametrize(
    "options",
    [ServeOptions(host="0.0.0.0", api_key="k"), ServeOptions(host="0.0.0.0", insecure=True)],
)
def test_an_open_host_wants_a_key_or_insecure(options: ServeOptions) -> None:
    replica = plan_on(machine(H100), options).replicas[0]

    assert replica.base_url == "http://127.0.0.1:8000/v1"
    assert replica.argv[3:7] == ("--host", "0.0.0.0", "--port", "8000")


def test_a_key_that_vllm_would_read_by_itself_holds() -> None:
    plan = plan_on(machine(H100), ServeOptions(host="0.0.0.0"), VLLM_API_KEY="a-secret")

    assert plan.api_key == "a-secret"


def test_raw_flags_are_appended_and_drop_ours_of_the_same_name() -> None:
    raw = ("--max_num_seqs=3", "--no-enable-prefix-caching", "--limit-mm-per-prompt.image", "2")
    plan = plan_on(machine(H100), ServeOptions(raw=raw))

    assert plan.replicas[0].argv[-4:] == raw
    assert not {"--max-num-seqs", "--enable-prefix-caching", "--limit-mm-per-prompt"} & set(
        values(plan)
    )


def test_a_raw_quantization_takes_our_settings_of_it_with_it() -> None:
    flags = values(plan_on(machine(RTX_4090), ServeOptions(raw=("-q", "awq_marlin"))))

    assert not {"--quantization", "--quantization-config"} & set(flags)


def test_a_raw_name_of_the_model_is_the_name_that_clients_use() -> None:
    plan = plan_on(machine(H100), ServeOptions(raw=("--served-model-name", "mine")))

    assert plan.served == "mine"


def test_a_mistyped_flag_is_met_with_the_right_one() -> None:
    known = replace(COMMAND, flags=frozenset({"--max-num-seqs", "--dtype"}))

    with pytest.raises(UsageError, match=r"knows --max-num-seq; did you mean --max-num-seqs\?"):
        plan_on(machine(H100), ServeOptions(raw=("--max-num-seq", "3")), command=known)


def test_a_longer_drain_is_waited_for() -> None:
    plan = plan_on(machine(H100), ServeOptions(raw=("--shutdown-timeout", "300")))

    assert plan.grace == 315


def test_a_cpu_build_gets_flags_for_cpus() -> None:
    plan = plan_on(machine(RTX_4090, ram=24), command=CPU, shape=NANO)
    flags = values(plan)

    assert flags["--dtype"] == "bfloat16"
    assert flags["--max-num-seqs"] == "16"
    assert {"--enforce-eager", "--enable-prefix-caching"} <= set(flags)
    assert plan.replicas[0].env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert plan.replicas[0].argv[:5] == ("python", "-m", "entry", "--model", "/nano")
    assert len(plan.replicas) == 1


def test_a_model_too_small_to_share_out_computes_in_one_thread_of_one_process() -> None:
    small = plan_on(machine(ram=24), command=CPU, shape=NANO).replicas[0].env
    large = plan_on(machine(ram=24), command=CPU, shape=replace(NANO, weights=1 << 30)).replicas[0]

    assert (small["VLLM_ENABLE_V1_MULTIPROCESSING"], small["OMP_NUM_THREADS"]) == ("0", "1")
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"} & set(large.env)


def test_joycaption_on_a_small_machine_without_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="`joycap serve nano` runs anywhere"):
        plan_on(machine(ram=16), command=CPU)


def test_a_cpu_takes_no_fp8() -> None:
    with pytest.raises(UsageError, match="fp8 needs a GPU"):
        plan_on(machine(), ServeOptions(quantization="fp8"), command=CPU, shape=NANO)


def test_a_cpu_holds_as_many_servers_as_its_memory_does() -> None:
    two = ServeOptions(replicas=2)
    plan = plan_on(machine(ram=16), two, command=CPU, shape=NANO)

    assert [replica.port for replica in plan.replicas] == [8000, 8001]
    assert plan.replicas[1].env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    with pytest.raises(UsageError, match="2 times joycap-nano needs 10"):
        plan_on(machine(ram=8), two, command=CPU, shape=NANO)


def test_a_gpu_build_without_a_gpu_is_planned_but_not_started() -> None:
    plan = plan_on(machine(), command=elsewhere())

    assert plan.obstacle == "no GPU is visible here, and vLLM 0.32.0 is a build for GPUs"
    assert "--max-num-seqs" not in values(plan)
    assert len(plan.replicas) == 1


def test_variables_that_the_user_has_set_are_left_alone() -> None:
    plan = plan_on(machine(), command=CPU, shape=NANO, VLLM_CPU_KVCACHE_SPACE=7)

    assert "VLLM_CPU_KVCACHE_SPACE" not in plan.replicas[0].env


def test_adapters_are_served_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 24}', encoding="utf-8")
    flags = values(plan_on(machine(H100), ServeOptions(loras=(("style", str(tmp_path)),))))

    assert flags["--lora-modules"] == (f"style={tmp_path}",)
    assert flags["--max-lora-rank"] == "32"
    assert "--enable-lora" in flags


def test_docker_gets_ports_volumes_and_the_gpu_but_no_secret() -> None:
    options = ServeOptions(api_key="a-secret")
    plan = plan_on(machine(H100), options, command=docker(), HF_HOME="/hub")
    argv = " ".join(plan.replicas[0].argv)

    assert "-p 127.0.0.1:8000:8000" in argv
    assert "--gpus device=0" in argv
    assert "-v /hub:/root/.cache/huggingface" in argv
    assert "-e VLLM_API_KEY vllm/vllm-openai:v0.32.0 fancyfeast/" in argv
    assert "--chat-template /joycap/chat_template.jinja" in argv
    assert "a-secret" not in argv
    assert plan.replicas[0].cleanup == ("docker", "rm", "--force", "joycap-8000")


def test_the_explanation_holds_every_flag_with_its_reason() -> None:
    plan = plan_on(machine(RTX_4090), ServeOptions(api_key="a-secret", raw=("--seed", "1")))
    text = explain(plan)

    assert all(flag.name in text and flag.why in text for flag in (*flags_of(plan), *plan.env))
    assert "$ vllm serve fancyfeast/llama-joycaption-beta-one-hf-llava --host" in text
    assert "on GPU 0 (NVIDIA GeForce RTX 4090)" in text
    assert "--seed 1  # as given behind --" in text
    assert "a-secret" not in text


def test_joycaptions_figures_match_what_is_known_of_it() -> None:
    assert JOYCAPTION.weights == pytest.approx(16.96e9, rel=0.01)
    assert JOYCAPTION.kv_per_token == 128 * 1024


def test_a_folders_shape_is_read_from_its_files(tmp_path: Path) -> None:
    text = {
        "num_hidden_layers": 2,
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 256,
        "max_position_embeddings": 1024,
    }
    config = {"text_config": text, "image_seq_length": 729}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    shape = nano_shape(tmp_path)

    assert (shape.weights, shape.kv_per_token, shape.served) == (1000, 256, "joycap-nano")
    assert values(plan_on(machine(), command=CPU, shape=shape))["--max-model-len"] == "1024"


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing"])
def test_a_folder_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        shape_of(name)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no model"):
        shape_of(str(tmp_path))


def test_another_name_on_the_hub_is_taken_for_joycaptions_shape() -> None:
    assert shape_of("somebody/tuned") == replace(JOYCAPTION, model="somebody/tuned")
