"""Workers and drivers that are killed, on a real local Ray: every row exactly once."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
IN_FLIGHT = 8
ASKED = 40  # requests that are answered before anything dies


@contextmanager
def killing(title: str, server: Any) -> Iterator[None]:
    """Kills the cluster's actors, by a signal that none survives, while the server holds what it
    was asked; all of them, so that what is held was theirs. Then the server goes on."""

    def work() -> None:
        wait_for(lambda: server.held > 0)
        for pid in actors(title):
            os.kill(pid, signal.SIGKILL)
        server.go_on()

    server.stops_after = ASKED
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_dataset_whose_actors_are_killed_has_every_row_once(server: Any, tmp_path: Path) -> None:
    paths = [str(path) for path in pictures(tmp_path, 120)]
    ds = ray.data.from_items([{"path": path} for path in paths]).repartition(6)

    captioned = caption_dataset(
        ds, urls=[server.url], options=OPTIONS, concurrency=IN_FLIGHT, actors=2, batch_size=8
    )
    with killing("MapWorker", server):
        rows = captioned.take_all()

    assert sorted(row["path"] for row in rows) == paths
    assert {row["outcome"] for row in rows} == {"ok"}
    assert len(server.bodies) > 120, "else nothing was under way where it was killed"


def test_a_job_whose_workers_are_killed_has_every_outcome_once(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    keys = [path.name for path in pictures(tmp_path, 120)]

    with killing("Worker", server):
        summary, told = caption(tmp_path, server.url, local_ray, "--concurrency", str(IN_FLIGHT))

    assert (summary["tasks"], summary["ok"]) == (120, 120)
    assert Counter(record["key"] for record in records(tmp_path)) == Counter(keys)
    assert all((tmp_path / name).with_suffix(".txt").read_text().strip() for name in keys)
    assert "a worker died" in told
    assert len(server.bodies) > 120, "else nothing was under way where it was killed"


def test_a_job_whose_driver_is_killed_goes_on_where_it_was(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    keys = [path.name for path in pictures(tmp_path, 120)]
    server.stops_after = ASKED
    process = begun(tmp_path, server.url, local_ray, "--concurrency", str(IN_FLIGHT))
    wait_for(lambda: len(records(tmp_path)) >= ASKED // 2)
    process.kill()
    process.join()
    server.go_on()
    before = len(records(tmp_path))
    wait_for(lambda: not actors("Worker"))  # its workers end with it

    summary, _ = caption(tmp_path, server.url, local_ray)

    assert ASKED // 2 <= before <= ASKED
    assert (summary["ok"], summary["skipped"]) == (120 - before, before)
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

    made = [str(path) for path in pictures(tmp_path / "pictures", 24)]
    (tmp_path / "rows").mkdir()
    for number in range(4):
        part = pa.table({"path": made[number * 6 : number * 6 + 6]})
        parquet.write_table(part, tmp_path / "rows" / f"{number}.parquet")

    def run(rows: Path) -> None:
        ds = ray.data.read_parquet(str(rows), override_num_blocks=2)
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
    for number in range(2):
        os.link(tmp_path / "rows" / f"{number}.parquet", half / f"{number}.parquet")
    run(half)
    asked = len(server.bodies)
    run(tmp_path / "rows")

    written = parquet.read_table(tmp_path / "out").to_pylist()
    assert asked == 12
    assert len(server.bodies) == 24
    assert sorted(row["path"] for row in written) == made
    assert {row["outcome"] for row in written} == {"ok"}
