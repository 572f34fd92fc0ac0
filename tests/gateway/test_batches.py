"""OpenAI's Batch API through the real client: files, batches, what becomes of each line."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIStatusError, AsyncOpenAI, BadRequestError, ConflictError, NotFoundError
from openai.types import Batch

from joycap_vllm import Captioner
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.batches import door
from joycap_vllm.gateway.batches.lines import read_line
from joycap_vllm.gateway.batches.queue import Batches
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import Context

CAPTION = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 60
URL = "/v1/chat/completions"
Ask = Callable[..., Any]


@contextlib.asynccontextmanager
async def gateway_over(captioner: Captioner, folder: Path, serve: Any) -> AsyncIterator[Any]:
    """A client of a gateway that keeps its batches in a folder."""
    completions = Completions(captioner)
    async with (
        Batches(folder, completions) as batches,
        serve(make_app(Context(captioner, completions=completions, batches=batches))) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
    completions.close()


@pytest.fixture
async def client(captioner: Captioner, tmp_path: Path, serve: Any) -> AsyncIterator[AsyncOpenAI]:
    async with gateway_over(captioner, tmp_path / "kept", serve) as client:
        yield client


def request(custom_id: Any, messages: Any, **changes: Any) -> dict[str, Any]:
    body = {"model": "joycaption/straightforward", "messages": messages}
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": body, **changes}


def jsonl(*rows: Any) -> bytes:
    return b"".join(r if isinstance(r, bytes) else orjson.dumps(r) + b"\n" for r in rows)


async def begun(client: AsyncOpenAI, data: bytes, window: Any = "24h") -> Batch:
    file = await client.files.create(file=("über uns.jsonl", io.BytesIO(data)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window=window,
        metadata={"what": "test"},
    )


async def ended(client: AsyncOpenAI, batch_id: str) -> Batch:
    async with asyncio.timeout(20):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                return batch
            await asyncio.sleep(0.02)


async def rows(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    content = await client.files.content(file_id)
    return [orjson.loads(line) for line in content.read().splitlines()]


async def test_a_batch_answers_each_line_as_a_live_request_would_be(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [LOOP]
    batch = await begun(client, jsonl(*(request(f"r{n}", ask()) for n in range(7))))

    assert (batch.status, batch.object, batch.endpoint) == ("validating", "batch", URL)
    batch = await ended(client, batch.id)

    assert (batch.status, batch.metadata) == ("completed", {"what": "test"})
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (7, 7)
    assert batch.error_file_id is None
    answers = await rows(client, batch.output_file_id)
    assert [row["custom_id"] for row in answers] == [f"r{n}" for n in range(7)]
    assert {row["response"]["status_code"] for row in answers} == {200}
    bodies = [row["response"]["body"] for row in answers]
    assert {body["choices"][0]["message"]["content"] for body in bodies} == {CAPTION}
    assert sum(body["joycap"]["attempts"] for body in bodies) == 8
    assert len(upstream.bodies) == 8


async def test_bad_lines_become_lines_of_the_error_file(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    unusable = ask(url="data:image/png;base64,aGVsbG8gd29ybGQ=")
    batch = await begun(
        client,
        jsonl(
            request("good", ask()),
            b"{nonsense\n",
            b"\n",
            request("good", ask()),
            request(None, ask()),
            request("other", ask(), url="/v1/embeddings"),
            request("get", ask(), method="GET"),
            request("bare", ask(), body=None),
            request("picture", unusable),
            request("model", ask(), body={"model": "gpt-4o", "messages": ask()}),
            b'{"custom_id": "deep", "body": {"a": %b}}\n' % (b"[" * 500 + b"]" * 500),
            request("last", ask()),
        )[:-1],
    )
    batch = await ended(client, batch.id)

    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 11, "completed": 2, "failed": 9}
    answers = await rows(client, batch.output_file_id)
    assert [row["custom_id"] for row in answers] == ["good", "last"]
    errors = await rows(client, batch.error_file_id)
    told = [
        (row["custom_id"], row["error"]["code"])
        if row["error"]
        else (row["custom_id"], row["response"]["status_code"])
        for row in errors
    ]
    assert told == [
        (None, "invalid_json_line"),
        ("good", "duplicate_custom_id"),
        (None, "missing_required_parameter"),
        ("other", "invalid_url"),
        ("get", "invalid_method"),
        ("bare", "missing_required_parameter"),
        ("picture", 400),
        ("model", 404),
        ("deep", "invalid_json_line"),
    ]
    assert errors[0]["error"]["message"].startswith("line 2 ")


async def test_files_of_other_systems_are_read(client: AsyncOpenAI, ask: Ask) -> None:
    data = codecs.BOM_UTF8 + jsonl(request("a", ask()), request("b", ask())).replace(b"\n", b"\r\n")
    batch = await ended(client, (await begun(client, data)).id)

    assert [row["custom_id"] for row in await rows(client, batch.output_file_id)] == ["a", "b"]


async def test_a_glitch_that_stays_is_in_the_error_file_and_not_handed_out(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [LOOP] * 3
    batch = await ended(client, (await begun(client, jsonl(request("a", ask())))).id)

    assert (batch.status, batch.output_file_id) == ("completed", None)
    [error] = await rows(client, batch.error_file_id)
    assert error["response"]["status_code"] == 502
    assert error["response"]["body"]["error"]["code"] == "repetition"


async def test_an_empty_file_fails_its_batch(client: AsyncOpenAI) -> None:
    batch = await ended(client, (await begun(client, b"\n\n")).id)

    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [problem.code for problem in batch.errors.data] == ["empty_file"]


async def test_a_batch_that_is_cancelled_keeps_what_was_answered(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    batch = await begun(client, jsonl(*(request(f"r{n}", ask()) for n in range(30))))
    while len(upstream.bodies) < 10:
        await asyncio.sleep(0.005)
    upstream.hold = asyncio.Event()
    batch = await client.batches.cancel(batch.id)

    assert batch.status == "cancelling"
    batch = await ended(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    answers = await rows(client, batch.output_file_id)
    errors = await rows(client, batch.error_file_id)
    assert len(answers) + len(errors) == 30
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    with pytest.raises(ConflictError, match="ended already"):
        await client.batches.cancel(batch.id)


async def test_a_batch_ends_at_the_end_of_its_window(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    batch = await begun(client, jsonl(request("a", ask())), "1s")
    batch = await ended(client, batch.id)

    assert batch.status == "expired"
    assert batch.expired_at is not None
    [error] = await rows(client, batch.error_file_id)
    assert (error["custom_id"], error["error"]["code"]) == ("a", "batch_expired")


async def test_live_requests_go_before_those_of_a_batch(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    hold = upstream.hold = asyncio.Event()
    batch = await begun(client, jsonl(*(request(f"r{n}", ask()) for n in range(60))))
    await upstream.arrived.wait()
    live = asyncio.create_task(
        client.chat.completions.create(model="joycaption", messages=ask("Live?"))
    )
    await asyncio.wait({live}, timeout=0.3)
    hold.set()
    await live
    at_that_time = await client.batches.retrieve(batch.id)
    texts = [body["messages"][-1]["content"][1]["text"] for body in upstream.bodies]

    assert at_that_time.request_counts is not None
    assert at_that_time.request_counts.completed < 30
    assert texts.index("Live?") < 12
    assert (await ended(client, batch.id)).status == "completed"


async def test_a_batch_waits_for_a_full_server_and_fails_no_line(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.script += [503, 429]
    batch = await ended(client, (await begun(client, jsonl(request("a", ask())))).id)

    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1


async def test_files_are_listed_read_and_removed(client: AsyncOpenAI, tmp_path: Path) -> None:
    made = [
        await client.files.create(file=(f"{n}\n.jsonl", b"x" * n), purpose="batch")
        for n in range(1, 4)
    ]
    listed = [file.id async for file in client.files.list(limit=2, order="asc")]
    one = await client.files.retrieve(made[1].id)
    gone = await client.files.delete(made[0].id)

    assert sorted(listed) == sorted(file.id for file in made)
    assert (one.bytes, one.purpose, one.status) == (2, "batch", "processed")
    assert (await client.files.content(one.id)).read() == b"xx"
    assert gone.deleted
    with pytest.raises(NotFoundError):
        await client.files.retrieve(made[0].id)
    assert not list((tmp_path / "kept").rglob(f"{made[0].id}*"))
    assert (tmp_path / "kept").stat().st_mode & 0o77 == 0


async def test_batches_are_listed_newest_first_a_page_at_a_time(
    client: AsyncOpenAI, ask: Ask
) -> None:
    made = [(await begun(client, jsonl(request("a", ask())))).id for _ in range(3)]
    first = await client.batches.list(limit=2)
    listed = [batch.id async for batch in client.batches.list(limit=2)]

    assert first.has_more
    assert len(first.data) == 2
    assert sorted(listed) == sorted(made)
    for batch_id in made:
        await ended(client, batch_id)


async def test_a_file_that_a_batch_reads_cannot_be_removed(
    client: AsyncOpenAI, ask: Ask, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    batch = await begun(client, jsonl(request("a", ask())))
    with pytest.raises(ConflictError, match="still reads this file"):
        await client.files.delete(batch.input_file_id)
    upstream.hold.set()
    await ended(client, batch.id)

    assert (await client.files.delete(batch.input_file_id)).deleted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-0"}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"a": "b" * 600}}, "metadata"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused(
    client: AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    file = await client.files.create(file=b"{}", purpose="batch")
    usual = {"input_file_id": file.id, "endpoint": URL, "completion_window": "24h"}
    with pytest.raises(BadRequestError) as caught:
        await client.batches.create(**{**usual, **fields})

    assert caught.value.param == param


async def test_uploads_that_are_none_are_refused(client: AsyncOpenAI) -> None:
    base = str(client.base_url).rstrip("/")
    async with httpx2.AsyncClient() as plain:
        as_json = await plain.post(f"{base}/files", json={})
        no_file = await plain.post(f"{base}/files", files={"purpose": (None, b"batch")})
        other = await plain.post(
            f"{base}/files", files={"file": b"{}"}, data={"purpose": "fine-tune"}
        )
        torn = await plain.post(
            f"{base}/files",
            content=b"--b\r\nnonsense",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )

    statuses = [reply.status_code for reply in (as_json, no_file, other, torn)]
    assert statuses == [415, 400, 400, 400]


async def test_a_file_over_the_limit_is_refused_however_it_is_sent(
    client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MOST_FILE", 10_000)
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    async def piece_by_piece() -> AsyncIterator[bytes]:
        yield start
        for _ in range(20):
            yield b"x" * 1000

    async with httpx2.AsyncClient() as plain:
        for content in (start + b"x" * 20_000, piece_by_piece()):
            reply = await plain.post(f"{client.base_url}files", content=content, headers=head)
            assert reply.status_code == 413
            assert "over the limit" in reply.json()["error"]["message"]


@pytest.mark.parametrize("name", ["file-0", "..%2F..%2Fbatches", "file-" + "0" * 24, "%00"])
async def test_names_that_are_no_files_are_not_found(client: AsyncOpenAI, name: str) -> None:
    base = str(client.base_url).rstrip("/")
    async with httpx2.AsyncClient() as plain:
        for path in (f"files/{name}", f"files/{name}/content", f"batches/{name}"):
            assert (await plain.get(f"{base}/{path}")).status_code == 404


async def test_a_gateway_that_keeps_nothing_has_no_files(gateway: str) -> None:
    async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(APIStatusError) as caught:
            await client.files.list()

    assert caught.value.status_code == 404


lines = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["custom_id", "body", "url", "method"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | lines.map(orjson.dumps))
def test_any_line_is_a_request_or_says_why_not(data: bytes) -> None:
    line = read_line(1, data, set())

    assert bool(line.code) == bool(line.why) == (not line.body)
