from __future__ import annotations

from dataclasses import replace

import pytest

from joycap_vllm.fleet.vitals import Vitals, rates, read_vitals

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="joycaption"} 60.0
vllm:num_requests_running{engine="1",model_name="joycaption"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="joycaption"} 7.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="joycaption"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="joycaption"} 0.25
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="joycaption"} 8000.0
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0",model_name="joycaption"} 8000.0
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0",model_name="joycaption"} 2000.0
# TYPE vllm:request_success counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="joycaption"} 9.0
vllm:request_success_total{engine="1",finished_reason="stop",model_name="joycaption"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="joycaption"} 2.0
"""


def test_the_engines_of_a_server_are_told_together() -> None:
    found = read_vitals(PAGE, 5.0)

    assert found is not None
    assert (found.running, found.waiting, found.kv, found.at) == (64.0, 7.0, 0.375, 5.0)
    assert dict(found.finished) == {"stop": 10.0, "length": 2.0}
    assert found.ended == 12.0


def test_speeds_and_shares_are_those_between_two_looks() -> None:
    before = read_vitals(PAGE, 5.0)
    assert before is not None
    now = replace(
        before, at=7.0, prompt_tokens=10_000.0, generation_tokens=500.0, prefix_queries=10_000.0,
        prefix_hits=3500.0, finished={"stop": 20.0, "length": 2.0},
    )  # fmt: skip
    found = rates(before, now)

    assert found is not None
    assert (found.requests, found.prompt_tokens, found.generation_tokens) == (5.0, 1000.0, 250.0)
    assert (found.prefix, found.pictures) == (0.75, None)


def test_a_server_that_was_started_anew_has_no_speed_yet() -> None:
    before = Vitals(5.0, prompt_tokens=100.0, finished={"stop": 3.0})

    assert rates(before, Vitals(6.0, prompt_tokens=1.0)) is None
    assert rates(before, replace(before, at=5.0)) is None


@pytest.mark.parametrize("page", ["", "<html>", "python_gc_objects_total 3.0\n", "a{b=} x"])
def test_a_page_that_is_no_vllms_tells_nothing(page: str) -> None:
    assert read_vitals(page, 0.0) is None
