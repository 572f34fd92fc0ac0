"""The planner and what users ask of it: options, raw flags, CPUs, Docker, folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from machines import H100, RTX_4090
from planning import CPU, NANO, flags_of, plan_on, values, why
from server_help import COMMAND

from joycap_vllm.errors import UsageError
from joycap_vllm.server import ServeOptions, explain
from joycap_vllm.server.command import docker, elsewhere
from joycap_vllm.server.known import machine
from joycap_vllm.server.shape import JOYCAPTION, nano_shape, shape_of


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
        (ServeOptions(raw=("-tp2",)), "each server has one GPU"),
        (ServeOptions(raw=("--hf-token", "x")), "set HF_TOKEN"),
        (ServeOptions(max_num_seqs=4, raw=("--max-num-seqs", "5")), "say two things"),
        (ServeOptions(max_model_len="4k", raw=("--max-model-len=1k",)), "say two things"),
        (ServeOptions(max_model_len="abc"), "takes a number of tokens as in 4096"),
        (ServeOptions(max_model_len="100"), "take 843 tokens at least"),
        (ServeOptions(max_model_len="200K"), "was made for 131072 at most"),
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
    plan = plan_on(machine(RTX_4090, ram=24 << 30), command=CPU, shape=NANO)
    flags = values(plan)

    assert flags["--dtype"] == "bfloat16"
    assert flags["--max-num-seqs"] == "16"
    assert {"--enforce-eager", "--enable-prefix-caching"} <= set(flags)
    assert plan.replicas[0].env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert plan.replicas[0].argv[:5] == ("python", "-m", "entry", "--model", "/nano")
    assert len(plan.replicas) == 1


def test_a_model_too_small_to_share_out_computes_in_one_thread_of_one_process() -> None:
    small = plan_on(machine(ram=24 << 30), command=CPU, shape=NANO).replicas[0].env
    large = plan_on(
        machine(ram=24 << 30), command=CPU, shape=replace(NANO, weights=1 << 30)
    ).replicas[0]

    assert (small["VLLM_ENABLE_V1_MULTIPROCESSING"], small["OMP_NUM_THREADS"]) == ("0", "1")
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"} & set(large.env)


def test_joycaption_on_a_small_machine_without_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="`joycap serve nano` runs anywhere"):
        plan_on(machine(ram=16 << 30), command=CPU)


def test_a_cpu_takes_no_fp8() -> None:
    with pytest.raises(UsageError, match="fp8 needs a GPU"):
        plan_on(machine(), ServeOptions(quantization="fp8"), command=CPU, shape=NANO)


def test_a_cpu_holds_as_many_servers_as_its_memory_does() -> None:
    two = ServeOptions(replicas=2)
    plan = plan_on(machine(ram=16 << 30), two, command=CPU, shape=NANO)

    assert [replica.port for replica in plan.replicas] == [8000, 8001]
    assert plan.replicas[1].env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    with pytest.raises(UsageError, match="2 times joycap-nano needs 10"):
        plan_on(machine(ram=8 << 30), two, command=CPU, shape=NANO)


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


def test_what_is_quantised_already_is_not_quantised_once_more() -> None:
    quantised = replace(JOYCAPTION, quantized=True)

    assert "--quantization" not in values(plan_on(machine(RTX_4090), shape=quantised))
    with pytest.raises(UsageError, match="leave --quantization out"):
        plan_on(machine(RTX_4090), ServeOptions(quantization="fp8"), shape=quantised)


def test_the_rank_of_an_adapter_that_is_not_at_hand_is_not_made_up() -> None:
    plan = plan_on(machine(H100), ServeOptions(loras=(("style", "owner/style"),)))

    assert values(plan)["--max-lora-rank"] == "64"
    assert why(plan, "--max-lora-rank") == "the adapters' ranks are not known here; 64 holds most"


def test_a_context_that_the_memory_does_not_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"room for [\d,]+ tokens in all"):
        plan_on(machine(RTX_4090), ServeOptions(max_model_len="131072"))


def test_a_cpu_build_has_no_gpus_to_choose() -> None:
    with pytest.raises(UsageError, match="is a build for CPUs"):
        plan_on(machine(), ServeOptions(gpus=(0,)), command=CPU, shape=NANO)


@pytest.mark.parametrize(
    ("name", "quantised"),
    [("someone/joycaption-AWQ", True), ("a/x-W4A16", True), ("a/x-fp8-dynamic", True),
     ("a/hawqs", False), ("fancyfeast/llama-joycaption-beta-one-hf-llava", False)],
)  # fmt: skip
def test_a_name_on_the_hub_tells_whether_it_is_quantised(name: str, quantised: bool) -> None:
    assert shape_of(name).quantized is quantised


@pytest.mark.parametrize("text", ["[1]", '{"text_config": "x"}', '{"hidden_size": null}', "3"])
def test_a_config_of_another_shape_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(UsageError, match="holds no model"):
        shape_of(str(tmp_path))
