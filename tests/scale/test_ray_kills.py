"""Workers and drivers that are killed, on a real local Ray: every row exactly once."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from job.helping import records

from joycap_vllm import CaptionerOptions
from joycap_vllm.scale import caption_dataset
from scale.conftest import actors, wait_for
from scale.jobs import begun, caption, pictures

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore"),  # Ray's and pandas' own
]
OPTIONS = CaptionerOptions(check=False, retries=1, workers=1)


def kill_all(title: str, server: Any, after: int) -> threading.Thread:
    """Kills the cluster's actors, by a signal that none survives, once so many requests have come;
    all of them, so that some surely had work."""

    def work() -> None:
        wait_for(lambda: len(server.bodies) >= after and bool(actors(title)))
        for pid in actors(title):
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_dataset_whose_actors_are_killed_has_every_row_once(server: Any, tmp_path: Path) -> None:
    paths = [str(path) for path in pictures(tmp_path, 400)]
    ds = ray.data.from_items([{"path": path} for path in paths]).repartition(10)

    killing = kill_all("MapWorker", server, 60)
    captioned = caption_dataset(
        ds, urls=[server.url], options=OPTIONS, concurrency=8, actors=2, batch_size=8
    )
    rows = captioned.take_all()
    killing.join()

    assert sorted(row["path"] for row in rows) == paths
    assert {row["outcome"] for row in rows} == {"ok"}
    assert len(server.bodies) > 400, "else nothing was under way where it was killed"


def test_a_job_whose_workers_are_killed_has_every_outcome_once(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    keys = [path.name for path in pictures(tmp_path, 400)]

    killing = kill_all("Worker", server, 60)
    summary, told = caption(tmp_path, server.url, local_ray, "--concurrency", "8")
    killing.join()

    assert (summary["tasks"], summary["ok"]) == (400, 400)
    assert Counter(record["key"] for record in records(tmp_path)) == Counter(keys)
    assert all((tmp_path / name).with_suffix(".txt").read_text().strip() for name in keys)
    assert "a worker died" in told
    assert len(server.bodies) > 400, "else nothing was under way where it was killed"


def test_a_job_whose_driver_is_killed_goes_on_where_it_was(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    keys = [path.name for path in pictures(tmp_path, 300)]
    process = begun(tmp_path, server.url, local_ray, "--concurrency", "8")
    wait_for(lambda: len(records(tmp_path)) >= 60)
    process.kill()
    process.join()
    before = len(records(tmp_path))
    wait_for(lambda: not actors("Worker"))  # its workers end with it

    summary, _ = caption(tmp_path, server.url, local_ray)

    assert 60 <= before < 300
    assert (summary["ok"], summary["skipped"]) == (300 - before, before)
    assert Counter(record["key"] for record in records(tmp_path)) == Counter(keys)


def test_ctrl_c_ends_a_job_once_what_is_in_flight_has_ended(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    pictures(tmp_path, 300)
    process = begun(tmp_path, server.url, local_ray, "--concurrency", "8")
    wait_for(lambda: len(records(tmp_path)) >= 30)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(30)

    assert process.exitcode == 130
    found = Counter(record["key"] for record in records(tmp_path))
    assert 30 <= len(found) < 300
    assert len(server.bodies) == len(found), "what was begun was finished"
    assert set(found.values()) == {1}


def test_a_dataset_that_is_run_again_asks_nothing_twice(server: Any, tmp_path: Path) -> None:
    """By Ray's own checkpoint: the first run has half of the files."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    made = [str(path) for path in pictures(tmp_path / "pictures", 60)]
    (tmp_path / "rows").mkdir()
    for number in range(6):
        part = pa.table({"path": made[number * 10 : number * 10 + 10]})
        parquet.write_table(part, tmp_path / "rows" / f"{number}.parquet")

    def run(rows: Path) -> None:
        ds = ray.data.read_parquet(str(rows), override_num_blocks=6)
        captioned = caption_dataset(
            ds,
            urls=[server.url],
            options=OPTIONS,
            concurrency=8,
            actors=1,
            checkpoint=str(tmp_path / "checkpoint"),
        )
        captioned.write_parquet(str(tmp_path / "out"))

    half = tmp_path / "half"
    half.mkdir()
    for number in range(3):
        os.link(tmp_path / "rows" / f"{number}.parquet", half / f"{number}.parquet")
    run(half)
    asked = len(server.bodies)
    run(tmp_path / "rows")

    written = parquet.read_table(tmp_path / "out").to_pylist()
    assert asked == 30
    assert len(server.bodies) == 60
    assert sorted(row["path"] for row in written) == made
    assert {row["outcome"] for row in written} == {"ok"}
