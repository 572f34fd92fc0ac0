"""The plans for machines of all sizes, as they stand in `plans/`: each change of one is seen.

`WRITE_PLANS=1 pytest tests/server/test_server_plans.py` writes them anew.
"""

from __future__ import annotations

import os

import pytest
from machines import MACHINES, PLANS, plan_for_machine

from joycap_vllm.errors import UsageError
from joycap_vllm.server import explain
from joycap_vllm.server.flags import TEMPLATE


def told(name: str) -> str:
    try:
        text = explain(plan_for_machine(name))
    except UsageError as error:
        text = f"does not fit: {error}"
    return text.replace(str(TEMPLATE), "chat_template.jinja") + "\n"


@pytest.mark.parametrize("name", MACHINES)
def test_the_plan_is_the_one_that_was_agreed_on(name: str) -> None:
    file = PLANS / f"{name}.txt"
    if os.environ.get("WRITE_PLANS"):
        file.write_text(told(name), encoding="utf-8")

    assert told(name) == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(MACHINES.keys() - {"rtx-4060-8"}))
def test_each_flag_has_its_reason_and_each_gpu_one_server(name: str) -> None:
    plan = plan_for_machine(name)
    flags = [flag for replica in plan.replicas for flag in (*plan.flags, *replica.flags)]

    assert all(len(flag.why) > 5 for flag in flags)
    gpus = [replica.gpu.selector for replica in plan.replicas if replica.gpu is not None]
    assert len(set(gpus)) == len(gpus)
    assert len({replica.port for replica in plan.replicas}) == len(plan.replicas)
    for replica in plan.replicas:
        if replica.fit is not None:
            found = replica.fit
            assert found.budget == found.weights + found.work + found.kv
            assert found.sequences <= found.captions


def test_no_plan_is_kept_of_a_machine_that_is_described_no_more() -> None:
    assert {file.stem for file in PLANS.iterdir()} == set(MACHINES)
