"""Batches of a gateway that dies: the next one goes on, and asks nothing that was answered."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.errors import OutputError
from joycap_vllm.gateway.batches.lines import entry, input_lines
from joycap_vllm.gateway.batches.queue import Batches
from joycap_vllm.gateway.batches.store import Batch, Store, new_id
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.serve import _batches

from .commands import command

URL = "/v1/chat/completions"
Ask = Callable[..., Any]


@contextlib.asynccontextmanager
async def gateway(upstream: str, state: Path) -> AsyncIterator[Any]:
    """The command as a process, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    flags = ("--port", port, "--base-url", upstream, "--no-check", "--state", state)
    async with command(*flags) as process:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"listening on" in line:
                break
        url = line.decode().split()[-1]
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield process, client


def lines(ask: Ask, count: int) -> bytes:
    return b"".join(
        orjson.dumps(
            {
                "custom_id": f"r{n}",
                "method": "POST",
                "url": URL,
                "body": {"model": "joycaption", "messages": ask(f"Question {n}?")},
            }
        )
        + b"\n"
        for n in range(count)
    )


async def held_after(upstream: Any, count: int) -> None:
    """Lets a server answer no more requests than so many."""
    while len(upstream.bodies) < count:
        await asyncio.sleep(0)
    upstream.hold = asyncio.Event()


async def status(client: AsyncOpenAI, batch_id: str, *, least: int) -> Any:
    async with asyncio.timeout(30):
        while True:
            batch = await client.batches.retrieve(batch_id)
            assert batch.request_counts is not None
            if batch.request_counts.completed >= least and (least < 40 or batch.completed_at):
                return batch
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_batch_goes_on_where_its_gateway_ended(
    upstream: Any, serve: Any, ask: Ask, tmp_path: Path, number: signal.Signals
) -> None:
    async with serve(upstream.app) as url:
        async with gateway(url, tmp_path) as (process, client):
            data, held = io.BytesIO(lines(ask, 40)), asyncio.create_task(held_after(upstream, 12))
            file = await client.files.create(file=("in.jsonl", data), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
            before = await status(client, batch.id, least=8)
            await held
            process.send_signal(number)
            if number == signal.SIGTERM:
                upstream.hold.set()
            await process.wait()
        upstream.hold = None
        asked_before = len(upstream.bodies)
        async with gateway(url, tmp_path) as (_, client):
            after = await status(client, batch.id, least=40)
            content = await client.files.content(after.output_file_id)

    answers = [orjson.loads(line) for line in content.read().splitlines()]
    assert before.request_counts.completed < 40
    assert [row["custom_id"] for row in answers] == [f"r{n}" for n in range(40)]
    asked = Counter(body["messages"][-1]["content"][1]["text"] for body in upstream.bodies)
    again = sum(count > 1 for count in asked.values())
    assert len(asked) == 40
    assert again <= asked_before - before.request_counts.completed
    assert not list(tmp_path.rglob("journal-*.jsonl"))


def kept(folder: Path, data: bytes) -> Batch:
    """A batch that a gateway left behind."""
    store = Store(folder)
    file = store.add_file(io.BytesIO(data), "in.jsonl", "batch")
    shown = {
        "id": new_id("batch_"),
        "status": "in_progress",
        "input_file_id": file["id"],
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1,
        "expires_at": 2**40,
        "completed_at": None,
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
    }
    batch = Batch(shown, new_id("file-"), new_id("file-"))
    store.save(batch)
    return batch


async def completed(batches: Batches, batch_id: str) -> Batch:
    async with asyncio.timeout(20):
        while not (batch := batches.get(batch_id)).ended:
            await asyncio.sleep(0.02)
    return batch


async def test_what_the_journal_holds_is_not_asked_again_and_a_torn_line_is(
    captioner: Captioner, upstream: Any, ask: Ask, tmp_path: Path
) -> None:
    left = kept(tmp_path, lines(ask, 2))
    response = {"status_code": 200, "request_id": "x", "body": {"kept": True}}
    result = {"id": "x", "custom_id": "r0", "response": response, "error": None}
    journal = tmp_path / "batches" / left.id / "journal-elsewhere-1.jsonl"
    journal.write_bytes(entry(1, result, ok=True) + entry(2, result, ok=True)[:20])
    completions = Completions(captioner)
    async with Batches(tmp_path, completions) as batches:
        batch = await completed(batches, left.id)
        answers = batches.store.content(left.output).read_bytes().splitlines()
    completions.close()

    assert batch.shown["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert [orjson.loads(row)["custom_id"] for row in answers] == ["r0", "r1"]
    assert orjson.loads(answers[0])["response"]["body"] == {"kept": True}
    assert len(upstream.bodies) == 1


async def test_two_gateways_with_one_folder_ask_each_line_once(
    captioner: Captioner, upstream: Any, ask: Ask, tmp_path: Path
) -> None:
    left = kept(tmp_path, lines(ask, 2))
    completions = Completions(captioner)
    upstream.hold = asyncio.Event()
    async with Batches(tmp_path, completions) as one, Batches(tmp_path, completions) as other:
        await upstream.arrived.wait()
        await asyncio.sleep(0.1)  # for the other to do what it should not
        upstream.hold.set()
        await completed(one, left.id)
        await completed(other, left.id)
    completions.close()

    assert len(upstream.bodies) == 2


async def test_a_batch_whose_file_is_gone_fails_and_holds_up_no_other(
    captioner: Captioner, ask: Ask, tmp_path: Path
) -> None:
    lost, other = kept(tmp_path, lines(ask, 2)), kept(tmp_path, lines(ask, 2))
    Store(tmp_path).remove_file(lost.shown["input_file_id"])
    completions = Completions(captioner)
    async with Batches(tmp_path, completions) as batches:
        states = [(await completed(batches, each.id)).shown["status"] for each in (lost, other)]
    completions.close()

    assert states == ["failed", "completed"]


def test_a_line_that_is_too_long_is_told_and_those_behind_it_are_read(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"a\n" + b"x" * 50 + b"\n" + b"y" * 10 + b"\nlast")

    assert list(input_lines(file, 10)) == [
        (1, b"a\n"),
        (2, None),
        (3, b"y" * 10 + b"\n"),
        (4, b"last"),
    ]


async def test_a_folder_that_cannot_be_made_ends_the_command_only_where_it_was_named(
    upstream: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    async with serve(upstream.app) as url:
        captioner = Captioner(f"{url}/v1", options=CaptionerOptions(check=False, workers=1))
        async with captioner:
            completions = Completions(captioner)
            with pytest.raises(OutputError, match="--state names another"):
                _batches(tmp_path / "file" / "kept", completions, told.append)
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
            assert _batches(None, completions, told.append) is None

    assert told[0].startswith("no files and batches are kept: ")
