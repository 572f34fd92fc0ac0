"""What `joycap serve` shows on a terminal while its servers load."""

from __future__ import annotations

import sys

import pytest

from terminal import on_terminal, read_terminal

SERVING = """
import time
from joycap_vllm.cli.serving import Talk
with Talk() as told:
    told.line("starting vLLM on port 8000; log: /a/very/long/name/of/a/file.log")
    for share in range(0, 100, 20):
        told.line(f"Loading safetensors checkpoint shards: {share}% Completed | {share}/100")
        time.sleep(0.3)
    told.line("test picture passed")
    told.ready(("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"))
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_grows_changes_in_place_and_what_is_ready_stands_alone(encoding: str) -> None:
    process, ours = on_terminal([sys.executable, "-c", SERVING], 70, PYTHONIOENCODING=encoding)
    shown = read_terminal(process, ours)
    left = [line.rpartition("\r")[2].strip() for line in shown.split("\r\n")]

    assert "0 s" in shown
    assert "1 s" in shown
    assert "80% Completed" in shown
    assert [line for line in left if "Completed" in line] == []
    assert left[-4:-1] == [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8001/v1",
        "serving; Ctrl-C here or `joycap serve --stop` anywhere stops",
    ]
    assert encoding != "ascii" or shown.isascii()
