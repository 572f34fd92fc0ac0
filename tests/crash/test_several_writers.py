"""Several processes at one folder, on purpose or by accident."""

from __future__ import annotations

from .lives import Job


def test_shards_side_by_side_lose_nothing_when_one_is_killed_and_goes_on(job: Job) -> None:
    job.server.tell(delay=(0.1, 0.3))
    one, two = job.begin("--shard", "1/2"), job.begin("--shard", "2/2")
    job.server.wait_for(8)
    job.end(one)
    again = job.begin("--shard", "1/2")
    codes = {life.wait() for life in (again, two)}
    for life in (again, two):
        job.ledger.died(life.name)

    assert codes == {0}, (again.err, two.err)
    assert job.ledger.problems() == []
    assert job.finish().summary["requests"] == 0


def test_a_second_process_by_accident_is_sent_away_and_the_first_may_die_and_go_on(
    job: Job,
) -> None:
    job.server.tell(faults=["silent"])
    first = job.begin()
    job.server.wait_for(4)
    second = job.live(code=2)
    assert "another joycap is at work on this job" in second.err
    assert "--shard" in second.err

    job.end(first)
    job.server.tell(faults=[])
    job.finish()


def test_a_shard_beside_a_whole_job_makes_nothing_worse_than_a_repeat(job: Job) -> None:
    """Who mixes both may pay for a task twice, but never loses or mixes up any."""
    job.server.tell(delay=(0.05, 0.2))
    whole = job.begin()
    job.server.wait_for(4)
    shard = job.begin("--shard", "1/2")
    codes = {life.wait() for life in (whole, shard)}

    assert codes == {0}, (whole.err, shard.err)
    assert job.ledger.lost() == set()
    assert (job.ledger.wrong_records(), job.ledger.wrong_sidecars()) == ([], [])
    assert job.ledger.litter() == []
