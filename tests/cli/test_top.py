"""`joycap top` against a server that shows vLLM's gauges."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from stub_server import Stub, StubOptions, stub

from forking import run_joycap


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub(StubOptions(slots=4, latency=0.01, metrics=True)) as made:
        yield made


def test_an_engine_is_shown_in_a_line_and_as_json(server: Stub) -> None:
    words = ("top", "--base-url", server.url, "--once", "--interval", "0.2")
    line = run_joycap(words)
    told = json.loads(run_joycap((*words, "--json")).stdout)

    assert line.returncode == 0, line.stderr
    assert "running 0, waiting 0, KV 0%" in line.stdout
    engine = told["engines"][server.url]
    assert (engine["running"], engine["rates"]["requests"]) == (0.0, 0.0)


def test_one_of_two_that_does_not_answer_is_told_and_none_at_all_is_exit_code_3(
    server: Stub,
) -> None:
    gone = "http://127.0.0.1:9/v1"
    both = ("top", "--base-url", server.url, "--base-url", gone, "--once", "--interval", "0.2")
    shown = run_joycap(both)

    assert shown.returncode == 0, shown.stderr
    assert "127.0.0.1:9: does not answer" in shown.stdout
    none = run_joycap(("top", "--base-url", gone, "--once"))
    assert none.returncode == 3
    assert "no vLLM answers with its metrics at http://127.0.0.1:9/v1" in none.stderr
