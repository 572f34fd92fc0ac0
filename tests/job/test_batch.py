"""`joycap batch`: the captioner's requests in files, and their results back."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from joycap_vllm.job import batch as batch_files
from joycap_vllm.job.batch import read_map

from .helping import (
    LOOP,
    caption,
    color_of,
    jobs_requests,
    joycap,
    make_pictures,
    records,
    sidecar,
)
from fault_server import Asked, FaultServer, Reaction, fail, name_of, say, serving

Row = dict[str, Any]


def exported(folder: Path, *flags: str | Path, code: int = 0) -> list[Row]:
    out = folder / "requests.jsonl"
    joycap("batch", "export", folder, "--model", "fault", "--out", out, "--wire", "png", *flags,
           code=code)  # fmt: skip
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def answered(server: FaultServer, requests: list[Row]) -> list[Row]:
    """What `vllm run-batch` writes: each body is sent, and what comes back is a line."""
    results = []
    for request in requests:
        url = server.url.removesuffix("/v1") + request["url"]
        body = orjson.dumps(request["body"])
        sent = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(sent) as response:  # noqa: S310
            answer = json.loads(response.read())
        results.append(result_of(request, answer))
    return results


def result_of(request: Row, body: Any, status: int = 200, error: Any = None) -> Row:
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": request["custom_id"], "response": response, "error": error}


def write(folder: Path, results: list[Row]) -> Path:
    path = folder / "results.jsonl"
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in results))
    return path


def imported(folder: Path, results: list[Row], code: int = 0) -> dict[str, Any]:
    done = joycap("batch", "import", write(folder, results), folder, "--json", code=code)
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def test_a_batch_asks_what_the_captioner_asks(tmp_path: Path, server: FaultServer) -> None:
    flags = ["--type", "straightforward", "--type", "descriptive", "--temperature", "0.5"]
    for folder in ("one", "two"):
        make_pictures(tmp_path / folder, 3)
    requests = exported(tmp_path / "one", *flags)
    caption(tmp_path / "two", server, "--no-check", *flags)

    bodies = sorted(orjson.dumps(r["body"], option=orjson.OPT_SORT_KEYS) for r in requests)
    assert bodies == sorted(
        orjson.dumps(asked.body, option=orjson.OPT_SORT_KEYS) for asked in jobs_requests(server)
    )
    assert {(r["method"], r["url"]) for r in requests} == {("POST", "/v1/chat/completions")}
    assert len({r["custom_id"] for r in requests}) == len(requests) == 6
    assert max(len(r["custom_id"]) for r in requests) <= 64


def test_results_become_captions(tmp_path: Path, server: FaultServer) -> None:
    pictures = make_pictures(tmp_path, 4)
    counts = imported(tmp_path, answered(server, exported(tmp_path)))
    (record,) = [r for r in records(tmp_path) if r["key"] == "p 0.png"]

    assert counts["ok"] == 4
    assert [sidecar(p).read_text() for p in pictures] == [name_of(color_of(n)) for n in range(4)]
    assert (record["model"], record["image"]["width"], record["usage"]["prompt"]) == (
        "fault",
        40,
        800,
    )
    assert caption(tmp_path, server)["skipped"] == 4
    assert joycap("export", tmp_path, "--format", "jsonl").returncode == 0


def test_importing_twice_changes_nothing(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 3)
    results = answered(server, exported(tmp_path))
    imported(tmp_path, results)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.txt")}, records(tmp_path)
    counts = imported(tmp_path, results + results)

    assert counts["before"] == 6
    assert before == ({p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.txt")}, records(tmp_path))


def test_an_answer_that_came_meanwhile_stands(tmp_path: Path, server: FaultServer) -> None:
    (path,) = make_pictures(tmp_path, 1)
    (request,) = exported(tmp_path)
    caption(tmp_path, server, "--no-check")
    with serving(lambda _: say("Something else entirely.")) as other:
        counts = imported(tmp_path, answered(other, [request]))

    assert counts["before"] == 1
    assert sidecar(path).read_text() == name_of(color_of(0))


def test_a_glitch_is_recorded_and_asked_again(tmp_path: Path, server: FaultServer) -> None:
    (path,) = make_pictures(tmp_path, 1)
    with serving(lambda _: say(LOOP)) as looping:
        counts = imported(tmp_path, answered(looping, exported(tmp_path)), code=1)
    assert (counts["glitched"], counts["glitches"]) == (1, {"repetition": 1})
    assert not sidecar(path).exists()
    joycap("retry", tmp_path, "--base-url", server.url)
    seeds = [a["seed"] for r in records(tmp_path) for a in r["attempts"]]

    assert sidecar(path).read_text() == name_of(color_of(0))
    assert len(set(seeds)) == 2


def refused(request: Row) -> Row:
    return result_of(request, {"error": {"message": "no such model"}}, 400)


def refused_by_vllm(request: Row) -> Row:
    return result_of(request, {}, 400, {"message": "no such model"})


def busy(request: Row) -> Row:
    return result_of(request, {"error": {"message": "later"}}, 429)


def expired(request: Row) -> Row:
    return {**request, "response": None, "error": {"code": "batch_expired", "message": "late"}}


def shapeless(request: Row) -> Row:
    return result_of(request, {"choices": []})


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (refused, "failed"),
        (refused_by_vllm, "failed"),
        (busy, "open"),
        (expired, "open"),
        (shapeless, "open"),
    ],
)
def test_what_got_no_answer_is_told_and_may_come_later(
    tmp_path: Path, server: FaultServer, bad: Callable[[Row], Row], kind: str
) -> None:
    (path,) = make_pictures(tmp_path, 1)
    (request,) = exported(tmp_path)
    assert imported(tmp_path, [bad(request)], code=1)[kind] == 1
    counts = imported(tmp_path, answered(server, [request]))

    assert counts["ok"] == 1
    assert sidecar(path).read_text() == name_of(color_of(0))


def test_lines_that_are_no_results_and_results_of_others_are_told(
    tmp_path: Path, server: FaultServer
) -> None:
    make_pictures(tmp_path, 2)
    results = answered(server, exported(tmp_path))
    path = write(tmp_path, [{**results[0], "custom_id": "request-7"}, results[1]])
    path.write_bytes(path.read_bytes() + b'{"custom_id": "joyc')
    done = joycap("batch", "import", path, tmp_path, "--json", code=1)

    assert json.loads(done.stdout) == {"foreign": 1, "ok": 1, "damaged": 1, "glitches": {}}
    assert "results.jsonl, line 3" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "joycap-", "joycap-../../x-0", "joycap-aa-9", "joycap-aa--1", "joycap-aa-x"]
)
def test_an_id_of_nobody_is_no_task(tmp_path: Path, text: str) -> None:
    assert read_map(tmp_path, text) is None


def test_a_large_batch_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from joycap_vllm.cli import app

    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 2)
    make_pictures(tmp_path, 5)
    out = tmp_path / "requests.jsonl"
    done = CliRunner().invoke(
        app, ["batch", "export", str(tmp_path), "--model", "m", "--out", str(out)]
    )
    files = sorted(tmp_path.glob("requests*.jsonl"))

    assert done.exit_code == 0, done.output
    assert [f.name for f in files] == [f"requests-00{n}.jsonl" for n in range(3)]
    assert [len(f.read_bytes().splitlines()) for f in files] == [2, 2, 1]


def test_requests_that_may_have_been_sent_are_not_written_over(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    before = exported(tmp_path)
    done = joycap("batch", "export", tmp_path, "--model", "m", "--out", tmp_path / "requests.jsonl",
                  code=2)  # fmt: skip

    assert "is there already" in done.stderr
    assert [
        json.loads(x) for x in (tmp_path / "requests.jsonl").read_bytes().splitlines()
    ] == before


def test_an_image_that_cannot_be_used_is_recorded_as_failed(tmp_path: Path) -> None:
    good, bad = make_pictures(tmp_path, 2)
    bad.write_bytes(b"")
    requests = exported(tmp_path, code=1)

    assert len(requests) == 1
    assert [(r["key"], r["outcome"]) for r in records(tmp_path)] == [
        ("with space/p 1.png", "failed")
    ]
    assert good.exists()


def test_what_is_captioned_is_not_asked(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)

    def first_only(asked: Asked) -> Reaction:
        return say(name_of(asked.color)) if asked.color == color_of(0) else fail(400, "no")

    with serving(first_only) as server:
        caption(tmp_path, server, "--no-check", code=1)
    requests = exported(tmp_path, "--again", "failed")

    assert len(requests) == 1


def test_a_prompt_is_filled_in_for_each_image(tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    sidecar(path).write_text("A <|eot_id|> dog.")
    flags = ["--prompt", "{stem}: improve {caption}", "--existing", "overwrite"]
    (request,) = exported(tmp_path, *flags)

    assert request["body"]["messages"][-1]["content"][1]["text"] == "p 0: improve A eot_id dog."
