"""A whole job over a fleet: images stay together, endpoints come and go."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest
from job.helping import command, jobs_requests, joycap, make_pictures

from fault_server import Asked, Reaction, say, serving, truthful


def test_all_tasks_of_an_image_are_asked_at_one_of_two_endpoints(tmp_path: Path) -> None:
    def slow(asked: Asked) -> Reaction:
        return say(truthful(asked).text, delay=0.02)

    make_pictures(tmp_path, 24)
    with serving(slow) as one, serving(slow) as two:
        joycap(
            "caption", tmp_path, "--base-url", one.url, "--base-url", two.url,
            "--type", "descriptive", "--type", "straightforward", "--type", "danbooru-tag-list",
        )  # fmt: skip
        places: defaultdict[str, set[str]] = defaultdict(set)
        for server in (one, two):
            for asked in jobs_requests(server):
                places[asked.image].add(server.url)

    assert len(places) == 24
    assert all(len(urls) == 1 for urls in places.values())
    assert {url for urls in places.values() for url in urls} == {one.url, two.url}


def test_endpoints_of_a_file_come_and_go_while_a_job_runs_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    order: list[str] = []

    def slow(name: str, asked: Asked) -> Reaction:
        if asked.color != (215, 35, 40):
            order.append(name)
        return say(truthful(asked).text, delay=0.2)

    pictures, file = tmp_path / "pictures", tmp_path / "fleet.txt"
    make_pictures(pictures, 90)
    with serving(lambda a: slow("one", a)) as one, serving(lambda a: slow("two", a)) as two:
        file.write_text(f"{one.url}\n")
        process = subprocess.Popen(
            command("caption", pictures, "--endpoints", file, "--concurrency", "4", "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        _until_begun(order, process)
        new = tmp_path / "new"
        new.write_text(f"# moved\n{two.url}\n")
        new.replace(file)
        out, talk = process.communicate(timeout=60)

    summary = json.loads(out.splitlines()[-1])
    assert (process.returncode, summary["ok"], summary["requests"]) == (0, 90, 90)
    assert set(order) == {"one", "two"}
    assert "one" not in order[order.index("two") :]
    assert f"{two.url} joins" in talk
    assert f"{one.url} is no longer listed" in talk


@pytest.mark.parametrize("content", ["", None])
def test_a_job_without_any_endpoint_says_which_file_names_none(
    tmp_path: Path, content: str | None
) -> None:
    make_pictures(tmp_path / "pictures", 1)
    file = tmp_path / "fleet.txt"
    if content is not None:
        file.write_text(content)
    done = joycap("caption", tmp_path / "pictures", "--endpoints", file, code=3)

    assert str(file) in done.stderr


def test_https_through_dns_is_refused_with_a_way_out(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    done = joycap("caption", tmp_path, "--endpoints", "dns+https://pods:8000", code=2)

    assert "--endpoints FILE" in done.stderr


def _until_begun(order: list[str], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not order:
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.01)


def test_what_the_fleet_tells_at_a_jobs_very_end_is_told_too(tmp_path: Path) -> None:
    make_pictures(tmp_path / "in", 1)
    file = tmp_path / "fleet.txt"
    with serving(lambda _: say("A dog.", delay=2.5)) as server:
        file.write_text(f"{server.url}\nhttp://127.0.0.1:9\n")
        call = (
            "import joycap_vllm.job.run as run; run._LOOK = 3600.0; "
            "from joycap_vllm.cli import main; main()"
        )
        flags = ["caption", tmp_path / "in", "--endpoints", file, "--no-check"]
        done = subprocess.run(
            [command()[0], "-c", call, *map(str, flags)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "it is looked at again" in done.stderr


def test_requests_that_were_sent_twice_are_told_of_and_not_counted_twice(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 12)
    stalled: set[str] = set()

    def stalls_once(asked: Asked) -> Reaction:
        if asked.color == (11, 77, 50) and not stalled:
            stalled.add(asked.image)
            return Reaction(hang=True)
        return truthful(asked)

    with serving(stalls_once) as one, serving(stalls_once) as two:
        urls = ["--base-url", one.url, "--base-url", two.url]
        done = joycap("caption", tmp_path, *urls, "--json")
        requests = len(jobs_requests(one)) + len(jobs_requests(two))
        status = json.loads(joycap("status", tmp_path, "--json").stdout)

    assert len(pictures) == json.loads(done.stdout)["requests"] == requests - 1
    assert "12 requests, 1 of them late and sent twice" in done.stderr
    assert status["writers"][0]["figures"]["hedged"] == 1


def test_no_more_is_in_flight_than_files_may_be_open(tmp_path: Path) -> None:
    make_pictures(tmp_path, 250)
    call = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
        "from joycap_vllm.cli import main; main()"
    )
    with serving(lambda asked: say(truthful(asked).text, delay=0.5)) as server:
        flags = ["caption", tmp_path, "--base-url", server.url, "--concurrency", "240", "--json"]
        done = subprocess.run(
            [command()[0], "-c", call, *map(str, flags)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 250
    assert "ulimit -n" in done.stderr
    assert server.peak <= 200 * 3 // 4 - 32
