"""`joycap caption --ray` on a real local Ray: what becomes of bad pictures, servers and flags."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from job.helping import records

from scale.jobs import caption, pictures

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(180),
]


def test_a_job_on_a_cluster_leaves_what_one_without_would(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    paths = pictures(tmp_path, 30)
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:60])
    types = ["--type", "descriptive", "--type", "straightforward"]

    summary, told = caption(tmp_path, server.url, local_ray, *types, code=1)
    again, _ = caption(tmp_path, server.url, local_ray, *types, code=1)

    assert (summary["images"], summary["tasks"]) == (31, 62)
    assert (summary["ok"], summary["failed"], summary["requests"]) == (60, 2, 60)
    assert (again["skipped"], again["failed"], again["requests"]) == (60, 2, 0)
    assert len(server.bodies) == 60
    assert paths[0].with_suffix(".txt").read_text()
    assert paths[0].with_suffix(".straightforward.txt").read_text()
    whys = {record["why"] for record in records(tmp_path) if record["outcome"] == "failed"}
    assert all("damaged" in why for why in whys)
    assert "2 workers on a Ray cluster of 4 cores on 1 machine" in told


def test_rows_with_columns_fill_prompts_on_a_cluster_too(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    [path] = pictures(tmp_path, 1)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{{"path": "{path.name}", "animal": "crane"}}\n')

    caption(rows, server.url, local_ray, "--prompt", "Describe the {animal}.")

    [body] = server.bodies
    assert body["messages"][-1]["content"][1]["text"] == "Describe the crane."


def test_a_server_that_is_not_there_ends_the_job_with_3(local_ray: str, tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    _, told = caption(tmp_path, f"http://127.0.0.1:{port}/v1", local_ray, code=3)

    assert "cannot be reached" in told
    assert records(tmp_path) == []


def test_a_model_that_only_babbles_stops_the_job(
    server: Any, local_ray: str, tmp_path: Path
) -> None:
    server.glitchy = True
    pictures(tmp_path, 200)

    _, told = caption(tmp_path, server.url, local_ray, "--retries", "0", code=3)

    assert "got an answer that is no caption" in told
    assert len(server.bodies) < 200


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ray", "nowhere"], "--ray takes auto, local"),
        (["--ray", "auto", "--serve", "nano"], "--serve starts a server that only this machine"),
        (["--ray-workers", "3"], "which is not given"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_a_line(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    from forking import run_joycap

    pictures(tmp_path, 1)
    done = run_joycap(["caption", tmp_path, *flags])

    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / ".joycap").exists()


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    from forking import run_joycap

    pictures(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = run_joycap(["caption", tmp_path, "--ray", f"127.0.0.1:{port}"])

    assert done.returncode == 2
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in done.stderr


def test_the_extra_is_named_where_ray_is_missing(tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    call = "import sys; sys.modules['ray'] = None; from joycap_vllm.cli import main; main()"
    command = [sys.executable, "-c", call, "caption", str(tmp_path), "--ray", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)

    assert done.returncode == 2
    assert "joycap-vllm[ray]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
