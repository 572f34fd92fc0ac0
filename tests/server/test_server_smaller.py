"""What a server is asked for when memory was short, by vLLM's words for it."""

from __future__ import annotations

import pytest
from machines import RTX_3060
from planning import plan_on

from joycap_vllm.server import Replica
from joycap_vllm.server.known import machine
from joycap_vllm.server.smaller import is_memory, smaller

OUT = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB."
TAKEN = (
    "ValueError: Free memory on device cuda:0 (9.1/11.76 GiB) on startup is less than desired GPU "
    "memory utilization (0.95, 11.17 GiB)."
)
NO_CACHE = (
    "ValueError: To serve at least one request with the models's max seq len (8192), (1.0 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (0.53 GiB)."
)


def planned() -> Replica:
    return plan_on(machine(RTX_3060)).replicas[0]


def changed(error: str, *raw: str) -> dict[str, object]:
    before = planned()
    after = smaller(before, error, raw)
    assert after is not None
    old = {flag.name: flag.value for flag in before.flags}
    new = {flag.name: flag.value for flag in after.replica.flags}
    for name, value in new.items():
        words = after.replica.argv
        assert name in words
        assert value is None or words[words.index(name) + 1] == value
    return {name: value for name, value in new.items() if (name, value) not in old.items()}


def test_where_memory_ran_out_all_is_made_smaller() -> None:
    found = changed(OUT)

    assert found["--gpu-memory-utilization"] == "0.89"
    assert found["--max-num-seqs"] == "5"


def test_what_others_took_is_left_to_them_and_nothing_else_changes() -> None:
    assert changed(TAKEN) == {"--gpu-memory-utilization": "0.89"}


def test_a_cache_that_is_too_small_gets_more_and_not_less() -> None:
    found = changed(NO_CACHE)

    assert found["--gpu-memory-utilization"] == "0.97"
    assert "--max-num-seqs" not in found


def test_a_users_own_flags_stay() -> None:
    found = changed(OUT, "--max-num-seqs", "10")

    assert set(found) == {"--gpu-memory-utilization"}


@pytest.mark.parametrize("error", ["ValueError: no", "it was killed from outside", ""])
def test_other_faults_are_not_taken_for_it(error: str) -> None:
    assert not is_memory(error)
