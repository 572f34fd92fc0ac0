"""The Slurm scripts, submitted to a real Slurm of this one machine."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from .slurm_cluster import Cluster, cluster
from .tools import needs
from fault_server import Asked, FaultServer, Reaction, name_of, say, serving

pytestmark = [
    needs("munged", "slurmctld", "slurmd", root=True),
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("slurm"),
]
PICTURES = 32


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures of one colour each, as a user of the cluster would have it."""
    (tmp_path / "photos").mkdir()
    for number in range(PICTURES):
        picture = Image.new("RGB", (64, 64), (number * 7 % 256, number * 3, 200))
        picture.save(tmp_path / "photos" / f"{number:02}.png")
    (tmp_path / "fleet").mkdir()
    return tmp_path


def submitted(slurm: Cluster, place: Path, script: Path, *words: str, **more: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "XDG_STATE_HOME": str(place / "state"), **more}
    flags = [word for word in words if word.startswith("--array")]
    rest = [word for word in words if not word.startswith("--array")]
    job = slurm.run(
        "sbatch", "--parsable", "--output=job-%a.txt", *flags, str(script), *rest,
        extra=environment, cwd=place,
    )  # fmt: skip
    return job.strip()


def captioned(place: Path) -> set[str]:
    return {file.stem for file in (place / "photos").glob("*.txt") if file.read_text().strip()}


def logs(place: Path) -> str:
    return "\n".join(f"{file.name}:\n{file.read_text()}" for file in place.glob("job-*.txt"))


def start_again(slurm: Cluster, job: str, place: Path) -> None:
    """Spares most of the time that Slurm gives a node before a job that was put back starts again:
    one that starts in the same second is refused by the node."""
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+3", cwd=place)


@contextmanager
def begun(
    slurm: Cluster, place: Path, deploy: Path, *, tasks: int, each: int
) -> Iterator[tuple[FaultServer, str]]:
    """An array that has asked for a few pictures, with so many requests in flight in each task."""
    enough = threading.Event()

    def script(asked: Asked) -> Reaction:
        if server.requests >= tasks + 2:
            enough.set()
        return say(name_of(asked.color), delay=0.5)

    with serving(script) as server:
        (place / "fleet" / "endpoints.txt").write_text(f"{server.url}\n")
        job = submitted(
            slurm, place, deploy / "slurm" / "caption.sbatch", f"--array=1-{tasks}", "photos",
            "--no-check", "--concurrency", str(each),
        )  # fmt: skip
        assert enough.wait(60), logs(place)
        yield server, job


def test_an_array_captions_each_picture_once_and_goes_on_when_it_is_put_back(
    slurm: Cluster, place: Path, deploy: Path
) -> None:
    with begun(slurm, place, deploy, tasks=4, each=1) as (server, job):
        slurm.run("scontrol", "requeue", job, cwd=place)
        slurm.wait(job, "PENDING")
        before = captioned(place)
        start_again(slurm, job, place)
        slurm.wait(job, "COMPLETED", seconds=90)

        assert len(before) < PICTURES
        assert captioned(place) == {f"{number:02}" for number in range(PICTURES)}, logs(place)
        assert once(server), logs(place)


def test_a_task_whose_time_is_nearly_up_puts_itself_back(
    slurm: Cluster, place: Path, deploy: Path
) -> None:
    with begun(slurm, place, deploy, tasks=2, each=2) as (server, job):
        slurm.run("scancel", "--batch", "--signal=USR1", job, cwd=place)
        slurm.wait(job, "PENDING")
        start_again(slurm, job, place)
        slurm.wait(job, "COMPLETED", seconds=90)

        assert "stopping" in logs(place)
        assert captioned(place) == {f"{number:02}" for number in range(PICTURES)}, logs(place)
        assert once(server), logs(place)


def test_the_last_task_of_an_array_puts_only_itself_back(
    slurm: Cluster, place: Path, deploy: Path
) -> None:
    with begun(slurm, place, deploy, tasks=2, each=2) as (_, job):
        slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_2", cwd=place)
        slurm.wait(f"{job}_2", "PENDING")
        start_again(slurm, f"{job}_2", place)
        slurm.wait(job, "COMPLETED", seconds=90)

        other = (place / "job-1.txt").read_text()
        assert other.count("16 images") == 1, logs(place)
        assert captioned(place) == {f"{number:02}" for number in range(PICTURES)}, logs(place)


def test_an_array_that_is_not_whole_needs_to_be_told_the_number_of_shards(
    slurm: Cluster, place: Path, deploy: Path, server: FaultServer
) -> None:
    (place / "fleet" / "endpoints.txt").write_text(f"{server.url}\n")
    script = deploy / "slurm" / "caption.sbatch"
    job = submitted(slurm, place, script, "--array=2", "photos", "--no-check")
    slurm.wait(job, "FAILED")
    assert "SHARDS" in logs(place)

    job = submitted(slurm, place, script, "--array=2", "photos", "--no-check", SHARDS="4")
    slurm.wait(job, "COMPLETED")
    assert 0 < len(captioned(place)) < PICTURES


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_an_engine_joins_the_list_once_it_captions_and_leaves_it_before_it_stops(
    slurm: Cluster, place: Path, deploy: Path
) -> None:
    pytest.importorskip("vllm")
    (place / "fleet" / "engine-key.txt").write_text("a-key-of-the-tests-0123456789")
    engines = submitted(slurm, place, deploy / "slurm" / "engines.sbatch", "--array=1", "nano")
    endpoints = place / "fleet" / "endpoints.txt"
    until = time.monotonic() + 150
    while not (endpoints.exists() and endpoints.read_text()):
        assert time.monotonic() < until, logs(place)
        time.sleep(0.2)

    job = submitted(slurm, place, deploy / "slurm" / "caption.sbatch", "--array=1-2", "photos")
    slurm.wait(job, "COMPLETED", "FAILED", seconds=90)
    slurm.run("scancel", "--batch", "--signal=USR1", engines, cwd=place)
    slurm.wait(engines, "PENDING", seconds=60)

    assert endpoints.read_text() == ""
    assert captioned(place), logs(place)
    slurm.run("scancel", engines, cwd=place)


def once(server: FaultServer) -> bool:
    """Whether each picture was asked for once: what was in flight at the stop was kept."""
    counts = Counter(asked.color for asked in server.asked)
    return len(counts) == PICTURES and set(counts.values()) == {1}
