"""What several workers are and do together."""

from __future__ import annotations

import pytest

from joycap_vllm.errors import UsageError
from joycap_vllm.job.crew import Load, Seen
from joycap_vllm.scale.sharing import core_share, floored, joined, share_of, workers_for


def test_there_is_a_worker_for_each_two_cores_unless_it_is_said_otherwise() -> None:
    assert [workers_for(cores, None, None) for cores in (0.0, 1.0, 2.0, 64.0)] == [1, 1, 1, 32]
    assert workers_for(2.0, 7, None) == 7
    assert workers_for(64.0, None, 5) == 5
    with pytest.raises(UsageError, match="each of 6 workers needs"):
        workers_for(64.0, 6, 5)


def test_shares_of_a_concurrency_add_up_to_all_of_it() -> None:
    assert [share_of(10, number, 4) for number in range(4)] == [3, 3, 2, 2]
    assert share_of(None, 0, 4) is None


def test_workers_never_ask_for_more_cores_than_there_are() -> None:
    assert all(count * floored(2.0 / count) <= 2.0 for count in range(1, 200))
    assert core_share(64.0, 4) == 2.0
    assert core_share(2.0, 4) == 0.5


def test_loads_are_summed_but_for_what_servers_count_themselves() -> None:
    one = Load(3, 8, (5, 1), "engine", 1, "", False, (Seen("a", 3, 8, True),))
    two = Load(4, 8, (6, 1), "engine", 0, "a: down", True, (Seen("a", 4, 8, False),))

    both = joined([one, two])

    assert (both.in_flight, both.capacity, both.queue, both.hedged) == (7, 16, (6, 1), 1)
    assert (both.state, both.down) == ("", False)
    assert both.endpoints == (Seen("a", 7, 16, True),)
    assert joined([]).state == "the workers to start"
