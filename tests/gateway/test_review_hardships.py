"""Review where names, pictures, files and requests are not as they should be."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm import Captioner
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context

from .reviewing import (
    GOOD,
    LOOP,
    Review,
    job_of,
    make_job,
    picture,
    row,
    write_journal,
)

ODD = [
    "two words.png",
    "ünï cödé.png",
    "line\nbreak.png",
    "-dash.png",
    "a'b\"c<d>.png",
    "b\udcff.png",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
async def test_odd_names_work(review: Review, pictures: Path, name: str) -> None:
    path = picture(pictures / name)
    path.with_suffix(".txt").write_text(LOOP)
    async with review(pictures) as reader:
        (item,) = (await reader.view())["items"]
        shown = await reader.client.get(f"{reader.at}/picture/{item['id']}")
        assert shown.headers["content-type"] == "image/jpeg"
        assert (await reader.edit(item, "Good.")).status_code == 200
    assert path.with_suffix(".txt").read_text() == "Good."


async def test_pictures_are_kept_by_browsers_and_outside_of_the_users_folder(
    review: Review, pictures: Path, tmp_path: Path
) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("good 0.png")
        at = f"{reader.at}/picture/{item['id']}"
        first = await reader.client.get(at, params={"version": item["version"]})
        again = await reader.client.get(at, headers={"If-None-Match": first.headers["etag"]})

        assert "immutable" in first.headers["cache-control"]
        assert again.status_code == 304
        picture(pictures / "good 0.png", (1, 2, 3))
        os.utime(pictures / "good 0.png", (1, 1))
        other = await reader.client.get(at, headers={"If-None-Match": first.headers["etag"]})
        assert other.status_code == 200
        assert other.content != first.content
    assert len(list((tmp_path / "cache").rglob("*.jpg"))) == 2
    assert {path.suffix for path in pictures.iterdir()} == {".png", ".txt", ""}


async def test_a_picture_that_cannot_be_read_is_drawn_with_the_reason(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    (pictures / "good 0.png").write_bytes(b"not a picture")
    (pictures / "good 1.png").unlink()
    async with review(pictures) as reader:
        for key, reason in (("good 0.png", "It is no picture"), ("good 1.png", "No such file")):
            item = await reader.item(key)
            shown = await reader.client.get(f"{reader.at}/picture/{item['id']}")

            assert shown.headers["content-type"] == "image/svg+xml"
            assert reason in shown.text
            assert shown.headers["cache-control"] == "no-store"


async def test_nothing_outside_of_the_roots_is_shown_or_written(
    review: Review, pictures: Path, tmp_path: Path
) -> None:
    secret = picture(tmp_path / "secret.png")
    words = tmp_path / "secret.txt"
    words.write_text("Secret words.")
    make_job(pictures, bad=0)
    (pictures / "good 0.png").unlink()
    (pictures / "good 0.png").symlink_to(secret)
    (pictures / "good 1.txt").unlink()
    (pictures / "good 1.txt").symlink_to(words)
    settings = job_of(pictures, [])
    write_journal(pictures, [row("../secret.png", settings), row(str(secret), settings)], number=2)
    async with review(pictures) as reader:
        items = (await reader.view())["items"]
        for item in items:
            if item["key"] not in ("good 0.png", "../secret.png", str(secret)):
                continue
            shown = await reader.client.get(f"{reader.at}/picture/{item['id']}")
            assert shown.headers["content-type"] == "image/svg+xml"
            assert (await reader.edit(item, "Mine.")).status_code in (200, 400)
        linked = next(item for item in items if item["key"] == "good 1.png")
        assert "Secret" not in str(items)
        assert (await reader.edit(linked, "Mine.")).status_code == 400
        for name in ("../secret.png", "..%2Fsecret.png", "0" * 24):
            assert (await reader.client.get(f"{reader.at}/picture/{name}")).status_code == 404
    assert words.read_text() == "Secret words."


async def test_a_file_that_is_no_text_is_left_as_it_is(review: Review, pictures: Path) -> None:
    make_job(pictures)
    (pictures / "good 0.txt").write_bytes(b"\xff\xfe\x00")
    async with review(pictures) as reader:
        item = await reader.item("good 0.png")
        refused = await reader.edit(item, "Mine.")

        assert refused.status_code == 400
        assert "UTF-8" in refused.json()["error"]["message"]
    assert (pictures / "good 0.txt").read_bytes() == b"\xff\xfe\x00"


async def test_an_empty_text_is_no_caption(review: Review, pictures: Path) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        refused = await reader.edit(await reader.item("good 0.png"), "  \n")

        assert refused.status_code == 400
    assert (pictures / "good 0.txt").read_text() == GOOD


async def test_several_folders_are_offered(review: Review, pictures: Path, tmp_path: Path) -> None:
    make_job(pictures / "one")
    make_job(pictures / "two <b>")
    picture(tmp_path / "plain" / "a.png")
    async with review(pictures, tmp_path / "plain") as reader:
        shelf = await reader.client.get("/review")

        assert shelf.status_code == 200
        assert "two &lt;b&gt;" in shelf.text
        assert shelf.text.count('href="/review/') == 3


async def test_without_roots_the_page_says_how_to_give_some(review: Review) -> None:
    async with review() as reader:
        shelf = await reader.client.get("/review")
        other = await reader.client.get("/review/000000000000000000000000")

        assert "--root" in shelf.text
        assert other.status_code == 404


async def test_requests_that_make_no_sense_are_refused(review: Review, pictures: Path) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("good 0.png")
        post, at = reader.post, reader.at
        replies = [
            await post("edit", id=item["id"]),
            await post("edit", id=item["id"], text=3),
            await post("edit", id="no such", text="A."),
            await post("again", id=item["id"], type="no such type"),
            await post("take", id=item["id"], offer="no such"),
            await post("undo", edit="no such"),
            await reader.client.post(
                f"{at}/edit", content=b"{}", headers={"Content-Type": "text/plain"}
            ),
            await reader.client.get(
                f"{at}/items", params={"view": "9", "offset": "0", "count": "9"}
            ),
            await reader.client.get(
                f"{at}/items", params={"view": "1", "offset": "-1", "count": "x"}
            ),
        ]

        statuses = [reply.status_code for reply in replies]
        assert statuses == [400, 400, 404, 400, 400, 409, 415, 410, 400]
        assert all(reply.json()["error"]["message"] for reply in replies)


fields = st.sampled_from(["id", "text", "seen", "what", "type", "length", "offer", "edit", "force"])
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(max_size=8)
    | st.lists(st.none())
)
asked = st.tuples(
    st.sampled_from(["edit", "take", "undo", "leave"]),
    st.dictionaries(fields, values | st.sampled_from(["ITEM", "as it is", "accept"])) | values,
)
looked = st.tuples(
    st.sampled_from(["view", "items", "status", "picture/ITEM", "picture/", ""])
    | st.text(max_size=9),
    st.dictionaries(
        st.sampled_from(["outcome", "text", "view", "offset", "count", "version", "side"]),
        st.text(max_size=6) | st.sampled_from(["0", "1", "60", "999999999"]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(asked | looked, max_size=12))
def test_no_request_breaks_the_gateway(requests: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        make_job(Path(place), good=1, bad=1)
        statuses = asyncio.run(_statuses(Path(place), requests))

    assert all(status < 500 for status in statuses)


async def _statuses(pictures: Path, requests: list[tuple[str, Any]]) -> list[int]:
    app = make_app(Context(Captioner("http://127.0.0.1:1/v1"), roots=(pictures,)))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        at = (await client.get("/review")).headers["location"]
        view = (await client.get(f"{at}/view")).json()
        while view["state"] != "ready":
            view = (await client.get(f"{at}/view")).json()
        item, found = view["items"][0]["id"], []
        for path, body in requests:
            if path in ("edit", "take", "undo", "leave"):
                text = orjson.dumps(body).replace(b"ITEM", item.encode())
                headers = {"Content-Type": "application/json"}
                reply = await client.post(f"{at}/{path}", content=text, headers=headers)
            else:
                where = f"{at}/{quote(path.replace('ITEM', item))}"
                reply = await client.get(where, params=body)
            found.append(reply.status_code)
        return found
