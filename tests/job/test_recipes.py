"""The image recipe of a job: it lasts, and who asks again keeps to it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from .helping import REFUSAL, caption, joycap, make_pictures, records
from fault_server import FaultServer, say, serving


@pytest.mark.parametrize("flags", [("--recipe", "fast"), ("--wire", "original"), ()])
def test_another_recipe_is_noticed(tmp_path: Path, server: FaultServer, flags: list[str]) -> None:
    make_pictures(tmp_path, 2)
    caption(tmp_path, server, "--recipe", "exact")
    done = joycap("caption", tmp_path, "--base-url", server.url, *flags, code=4)

    assert "recipe" in done.stderr
    assert caption(tmp_path, server, *flags, "--accept-changes")["skipped"] == 2


def test_another_lossless_wire_is_no_other_recipe(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 2)
    caption(tmp_path, server, "--wire", "png")

    assert caption(tmp_path, server, "--wire", "bmp")["skipped"] == 2


def test_retry_prepares_pictures_as_the_job_did(tmp_path: Path, server: FaultServer) -> None:
    make_pictures(tmp_path, 1)
    with serving(lambda asked: say(REFUSAL)) as refusing:
        caption(tmp_path, refusing, "--recipe", "exact", "--retries", "0", "--no-check", code=1)
    joycap("retry", tmp_path, "--base-url", server.url, "--recipe", "fast", code=4)
    joycap("retry", tmp_path, "--base-url", server.url)
    first, second = records(tmp_path)

    assert first["fp"] == second["fp"]


def test_originals_travel_as_they_are_also_when_asked_again(
    tmp_path: Path, server: FaultServer
) -> None:
    [picture] = make_pictures(tmp_path, 1)
    stored = base64.b64encode(picture.read_bytes()).decode()
    with serving(lambda asked: say(REFUSAL)) as refusing:
        caption(tmp_path, refusing, "--wire", "original", "--retries", "0", "--no-check", code=1)
        assert refusing.asked[0].image == f"data:image/png;base64,{stored}"
    joycap("retry", tmp_path, "--base-url", server.url, "--wire", "auto")

    assert server.asked[-1].image == f"data:image/png;base64,{stored}"
