"""Files and batches belong to the key that made them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from openai import AsyncOpenAI, NotFoundError

from joycap_vllm import Captioner
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.batches import Batches
from joycap_vllm.gateway.completions import Completions
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Key, Keyring, read_keys

Ask = Callable[..., Any]
Serve = Callable[..., contextlib.AbstractAsyncContextManager[str]]
ANNA, BEN = Key("anna", b"anna's key"), Key("ben", b"ben's key")


@contextlib.asynccontextmanager
async def callers(
    captioner: Captioner, folder: Path, serve: Serve, *keys: Key
) -> AsyncIterator[list[AsyncOpenAI]]:
    """A client for each key of a gateway, or one without a key."""
    completions = Completions(captioner)
    async with contextlib.AsyncExitStack() as stack:
        batches = await stack.enter_async_context(Batches(folder, completions))
        ring = Keyring(*keys)
        context = Context(captioner, keys=ring, completions=completions, batches=batches)
        url = await stack.enter_async_context(serve(make_app(context)))
        secrets = [key.secret.decode() for key in keys] or ["none"]
        yield [
            await stack.enter_async_context(
                AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
            )
            for secret in secrets
        ]
    completions.close()


async def made(client: AsyncOpenAI, ask: Ask) -> tuple[str, str]:
    """A file and its batch, which has ended: their ids."""
    body = {"model": "joycaption", "messages": ask("Hm?")}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    data = io.BytesIO(orjson.dumps(row))
    file = await client.files.create(file=("a.jsonl", data), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(20):
        while (await client.batches.retrieve(batch.id)).status != "completed":
            await asyncio.sleep(0.02)
    return file.id, batch.id


async def seen(client: AsyncOpenAI) -> tuple[set[str], set[str]]:
    """The files and batches in a caller's lists."""
    files = {file.id async for file in client.files.list()}
    return files, {batch.id async for batch in client.batches.list()}


async def test_nobody_else_sees_uses_or_ends_what_a_key_has_made(
    captioner: Captioner, ask: Ask, tmp_path: Path, serve: Serve
) -> None:
    async with callers(captioner, tmp_path, serve, ANNA, BEN) as (anna, ben):
        file, batch = await made(anna, ask)
        result = (await anna.batches.retrieve(batch)).output_file_id
        assert result is not None
        for work in (
            ben.files.retrieve(file),
            ben.files.content(result),
            ben.files.delete(file),
            ben.batches.retrieve(batch),
            ben.batches.cancel(batch),
        ):
            with pytest.raises(NotFoundError):
                await work
        with pytest.raises(Exception, match="no file is called") as refused:
            await ben.batches.create(
                input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
            )
        told = [await seen(anna), await seen(ben)]
        text = (await anna.files.content(result)).content

    assert getattr(refused.value, "status_code", 0) == 400
    assert told == [({file, result}, {batch}), (set(), set())]
    assert orjson.loads(text)["custom_id"] == "a"


async def test_what_a_key_has_made_is_its_own_after_a_restart_and_everybodys_without_keys(
    captioner: Captioner, ask: Ask, tmp_path: Path, serve: Serve
) -> None:
    async with callers(captioner, tmp_path, serve, ANNA, BEN) as (anna, _):
        file, batch = await made(anna, ask)
    async with callers(captioner, tmp_path, serve, BEN, Key("anna", b"a new key")) as (ben, anna):
        later = [await seen(anna), await seen(ben)]
    async with callers(captioner, tmp_path, serve) as (anybody,):
        files, batches = await seen(anybody)
        shown = await anybody.files.retrieve(file)

    assert file in later[0][0]
    assert later[0][1] == {batch}
    assert later[1] == (set(), set())
    assert file in files
    assert batches == {batch}
    assert "owner" not in shown.model_dump()


async def test_what_an_earlier_version_kept_is_still_there_for_every_key(
    captioner: Captioner, ask: Ask, tmp_path: Path, serve: Serve
) -> None:
    async with callers(captioner, tmp_path, serve) as (anybody,):
        file, batch = await made(anybody, ask)
    kept = tmp_path / "batches" / batch / "batch.json"
    data = orjson.loads(kept.read_bytes())
    del data["owner"]  # as it was written before
    kept.write_bytes(orjson.dumps(data))
    async with callers(captioner, tmp_path, serve, ANNA, BEN) as (anna, ben):
        told = [await seen(anna), await seen(ben)]

    assert "owner" not in orjson.loads((tmp_path / "files" / f"{file}.json").read_bytes())
    assert all(file in files and batches == {batch} for files, batches in told)


def test_a_key_without_a_name_stays_the_same_owner_where_its_line_moves(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"one secret key\n".replace(b" ", b"-"))
    before = read_keys(file)[0].owner
    file.write_bytes(b"another-key\none-secret-key\nnamed one-more-key\n")
    other, after, named = (key.owner for key in read_keys(file))

    assert before == after != other
    assert named == "named"
    assert "secret" not in after


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("utf-7", b"+2AA-"),
        ("unicode_escape", rb"\ud800"),
        ("utf-16-le", b"\x00\xd8"),
        ("punycode", b"-\xff-"),
        ("undefined", b"a"),
        ("idna", b"xn--\xff"),
        ("nonesuch", b"a"),
        ("utf-8", b"a" * 2000),
    ],
)
async def test_a_file_of_an_odd_name_is_refused_and_leaves_nothing(
    captioner: Captioner, tmp_path: Path, serve: Serve, charset: str, name: bytes
) -> None:
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + name
        + b'"\r\n\r\n{}\r\n'
        b"--x--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    async with callers(captioner, tmp_path, serve) as (client,), httpx2.AsyncClient() as plain:
        url = f"{client.base_url}files"
        answer = await plain.post(url, content=parts, headers=headers)

    assert answer.status_code in (400, 415)
    assert answer.json()["error"]["message"]
    assert not list((tmp_path / "files").iterdir())


async def test_a_file_whose_description_cannot_be_kept_leaves_nothing(
    captioner: Captioner, tmp_path: Path
) -> None:
    store = Batches(tmp_path, Completions(captioner)).store
    with pytest.raises(TypeError):
        store.add_file(io.BytesIO(b"{}"), "\ud800", "batch")

    assert not list((tmp_path / "files").iterdir())


@pytest.mark.parametrize("limit", ["9" * 5000, "-1", "0", "x", "\u0663"])
async def test_a_limit_that_is_none_is_refused(
    captioner: Captioner, tmp_path: Path, serve: Serve, limit: str
) -> None:
    async with callers(captioner, tmp_path, serve) as (client,), httpx2.AsyncClient() as plain:
        answer = await plain.get(f"{client.base_url}files", params={"limit": limit})

    assert answer.status_code == 400


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rest", [b"{}", b"{}\r\n--x", b"{}\r\n--x\xffx"])
async def test_a_form_that_breaks_off_leaves_no_file_open(
    captioner: Captioner, tmp_path: Path, serve: Serve, rest: bytes
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + rest
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with callers(captioner, tmp_path, serve) as (client,), httpx2.AsyncClient() as plain:
        answer = await plain.post(f"{client.base_url}files", content=body, headers=headers)

    assert answer.status_code == 400
    gc.collect()
