"""Review as its page sees it: looking through captions and changing them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
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
from joycap_vllm.job.journal import Journal
from joycap_vllm.prompts import dual_prompts

from .reviewing import (
    GOOD,
    LOOP,
    glitched,
    job_of,
    journal_rows,
    latest,
    make_job,
    picture,
    row,
    write_journal,
)

Serve = Callable[..., contextlib.AbstractAsyncContextManager[str]]


@dataclass
class Reader:
    """Somebody who looks through a book."""

    client: httpx2.AsyncClient
    at: str = ""

    async def view(self, **wanted: str) -> dict[str, Any]:
        while True:
            reply = await self.client.get(f"{self.at}/view", params=wanted)
            assert reply.status_code == 200, reply.text
            data: dict[str, Any] = reply.json()
            if data["state"] == "ready":
                return data

    async def keys(self, **wanted: str) -> list[str]:
        return [item["key"] for item in (await self.view(**wanted))["items"]]

    async def item(self, key: str, **wanted: str) -> dict[str, Any]:
        items = (await self.view(**wanted))["items"]
        return next(item for item in items if item["key"] == key)

    async def post(self, to: str, /, **body: Any) -> httpx2.Response:
        return await self.client.post(f"{self.at}/{to}", json=body)

    async def edit(self, item: dict[str, Any], text: str, **more: Any) -> httpx2.Response:
        return await self.post("edit", id=item["id"], seen=item["seen"], text=text, **more)

    async def undo(self, **more: Any) -> httpx2.Response:
        last = (await self.view())["undo"]
        return await self.post("undo", edit=last["id"], **more)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "set"
    made.mkdir()
    return made


@pytest.fixture
def review(
    captioner: Captioner, serve: Serve
) -> Callable[..., contextlib.AbstractAsyncContextManager[Reader]]:
    """Opens the only book below some roots."""

    @contextlib.asynccontextmanager
    async def reading(*roots: Path) -> AsyncIterator[Reader]:
        app = make_app(Context(captioner, roots=roots))
        async with serve(app) as url, httpx2.AsyncClient(base_url=url) as client:
            reader = Reader(client)
            found = await client.get("/review")
            if found.status_code == 303:
                reader.at = found.headers["location"]
            yield reader

    return reading


Review = Callable[..., contextlib.AbstractAsyncContextManager[Reader]]


async def test_the_worst_come_first_and_can_be_filtered(review: Review, folder: Path) -> None:
    settings = make_job(folder)
    picture(folder / "gone.png")
    lost = row("gone.png", settings, "failed", caption=None, why="the picture is damaged")
    write_journal(folder, [lost])
    async with review(folder) as reader:
        view = await reader.view()

        assert [item["outcome"] for item in view["items"]] == ["glitched"] * 2 + ["failed"] + [
            "ok"
        ] * 3
        assert view["facets"]["outcomes"] == {"glitched": 2, "failed": 1, "ok": 3}
        assert view["facets"]["glitches"] == {"repetition": 2}
        assert await reader.keys(outcome="failed") == ["gone.png"]
        assert await reader.keys(glitch="repetition") == ["bad 0.png", "bad 1.png"]
        assert await reader.keys(text="GOOD 2") == ["good 2.png"]
        assert await reader.keys(text="red circle, red") == ["bad 0.png", "bad 1.png"]
        assert (await reader.item("gone.png"))["why"] == "the picture is damaged"


async def test_an_edit_is_in_the_journal_and_in_the_sidecar(review: Review, folder: Path) -> None:
    make_job(folder)
    async with review(folder) as reader:
        item = await reader.item("bad 0.png")
        done = await reader.edit(item, "A red square.")

        assert done.status_code == 200
        assert done.json()["item"]["outcome"] == "ok"
        assert done.json()["item"]["byHand"] is True
        assert done.json()["facets"]["outcomes"] == {"glitched": 1, "ok": 4}
    assert (folder / "bad 0.txt").read_text() == "A red square."
    record = latest(folder, "bad 0.png")
    assert (record["outcome"], record["caption"], record["glitch"]) == ("ok", "A red square.", None)
    assert record["fp"] == next(journal_rows(folder))["fp"]


async def test_a_glitched_caption_can_be_accepted_as_it_is(review: Review, folder: Path) -> None:
    make_job(folder)
    async with review(folder) as reader:
        item = await reader.item("bad 1.png")
        await reader.edit(item, item["caption"], what="accept")

        assert await reader.keys(outcome="glitched") == ["bad 0.png"]
        assert await reader.keys(outcome="edited") == ["bad 1.png"]
    assert (folder / "bad 1.txt").read_text() == LOOP.strip()
    assert latest(folder, "bad 1.png")["review"]["what"] == "accept"


async def test_edits_are_undone_step_by_step_also_after_a_restart(
    review: Review, folder: Path
) -> None:
    make_job(folder)
    async with review(folder) as reader:
        for key, text in (("bad 0.png", "One."), ("good 0.png", "Two."), ("bad 0.png", "Three.")):
            await reader.edit(await reader.item(key), text)
    async with review(folder) as reader:
        assert (await reader.view())["undos"] == 3
        assert (await reader.undo()).status_code == 200
        assert (folder / "bad 0.txt").read_text() == "One."
        assert (await reader.undo()).status_code == 200
        assert (folder / "good 0.txt").read_text() == GOOD
    async with review(folder) as reader:
        assert (await reader.undo()).status_code == 200
        view = await reader.view(outcome="glitched")

        assert view["undo"] is None
        assert [item["caption"] for item in view["items"]] == [LOOP, LOOP]
        assert not any(item["byHand"] for item in view["items"])
    assert not (folder / "bad 0.txt").exists()
    assert latest(folder, "bad 0.png")["outcome"] == "glitched"


async def test_a_sidecar_that_was_changed_meanwhile_is_not_overwritten(
    review: Review, folder: Path
) -> None:
    make_job(folder)
    file = folder / "good 0.txt"
    async with review(folder) as reader:
        item = await reader.item("good 0.png")
        file.write_text("Somebody else's words.")
        refused = await reader.edit(item, "Mine.")

        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "conflict"
        assert refused.json()["item"]["caption"] == "Somebody else's words."
        assert file.read_text() == "Somebody else's words."
        assert len(list(journal_rows(folder))) == 5
        await reader.edit(refused.json()["item"], "Mine.")
        assert file.read_text() == "Mine."


async def test_an_undo_leaves_what_somebody_else_wrote_since_unless_told(
    review: Review, folder: Path
) -> None:
    make_job(folder)
    file = folder / "good 0.txt"
    async with review(folder) as reader:
        await reader.edit(await reader.item("good 0.png"), "Mine.")
        file.write_text("Theirs.")
        refused = await reader.undo()

        assert (refused.status_code, file.read_text()) == (409, "Theirs.")
        assert (await reader.undo(force=True)).status_code == 200
        assert file.read_text() == GOOD
        assert latest(folder, "good 0.png")["review"]["before"] == "Theirs."


async def test_while_a_job_is_at_work_captions_can_only_be_looked_at(
    review: Review, folder: Path
) -> None:
    settings = make_job(folder)
    async with review(folder) as reader:
        item = await reader.item("bad 0.png")
        async with Journal(settings.state):
            refused = await reader.edit(item, "Mine.")
            busy = (await reader.view())["busy"]
            journals = len(list(settings.state.glob("journal-*.jsonl")))

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "busy")
        assert "at work" in busy
        assert journals == 2  # nothing is left of what was refused
        assert (await reader.edit(item, "Mine.")).status_code == 200


async def test_what_a_job_adds_meanwhile_is_seen(
    review: Review, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_job(folder)
    monkeypatch.setattr("joycap_vllm.gateway.review_session._FRESH", 0.0)
    async with review(folder) as reader:
        before = (await reader.view())["total"]
        write_journal(folder, [glitched("more.png", settings)], number=2)

        assert before == 5
        assert await reader.keys(glitch="repetition") == ["bad 0.png", "bad 1.png", "more.png"]


async def test_a_new_answer_is_offered_and_kept_only_if_it_is_taken(
    review: Review, folder: Path, upstream: Any
) -> None:
    make_job(folder)
    async with review(folder) as reader:
        item = await reader.item("bad 0.png")
        asked = await reader.post("again", id=item["id"], type="straightforward", length="short")
        offer = asked.json()

        assert (offer["caption"], offer["outcome"], offer["attempts"]) == (GOOD, "ok", 1)
        assert not (folder / "bad 0.txt").exists()
        taken = await reader.post("take", id=item["id"], offer=offer["offer"], seen=item["seen"])
        assert taken.json()["item"]["caption"] == GOOD
        again = await reader.post("take", id=item["id"], offer=offer["offer"], seen=item["seen"])
        assert again.status_code == 400
    assert (folder / "bad 0.txt").read_text() == GOOD
    record = latest(folder, "bad 0.png")
    assert record["review"]["what"] == "again"
    assert record["model"] == "stub"
    assert len(record["attempts"]) == 1
    assert "straightforward" in record["asked"]


async def test_glitches_of_a_new_answer_are_retried_and_told(
    review: Review, folder: Path, upstream: Any
) -> None:
    make_job(folder)
    upstream.script.extend([LOOP] * 3)
    async with review(folder) as reader:
        item = await reader.item("bad 0.png")
        offer = (await reader.post("again", id=item["id"])).json()

        assert (offer["outcome"], offer["glitch"], offer["attempts"]) == (
            "glitched",
            "repetition",
            3,
        )


async def test_a_shared_sidecar_keeps_its_other_line(review: Review, folder: Path) -> None:
    tags, prose = dual_prompts()
    picture(folder / "a.png")
    settings = job_of(folder, ["a.png"], prompts=(tags, prose), together=True)
    lines = {tags.name: "red, circle, white background", prose.name: GOOD}
    write_journal(folder, [row("a.png", settings, prompt=n, caption=c) for n, c in lines.items()])
    file = folder / "a.txt"
    file.write_text("\n".join(lines.values()))
    async with review(folder) as reader:
        items = {item["prompt"]: item for item in (await reader.view())["items"]}
        await reader.edit(items[prose.name], "Only a circle.")

        assert file.read_text() == "red, circle, white background\nOnly a circle."
        done = await reader.edit(items[tags.name], "circle")  # as seen before the other edit
        assert (done.status_code, file.read_text()) == (200, "circle\nOnly a circle.")
        file.write_text("square\nOnly a circle.")
        assert (await reader.edit(done.json()["item"], "disc")).status_code == 409
        file.write_text("circle\nOnly a circle.")
        assert (await reader.undo()).status_code == 200
        assert (await reader.undo()).status_code == 200
        assert file.read_text() == "red, circle, white background\n" + GOOD


async def test_a_plain_folder_is_judged_and_its_files_are_edited(
    review: Review, folder: Path
) -> None:
    for name, text in (("a", GOOD), ("b", LOOP), ("c", None), ("d", GOOD + "\n")):
        picture(folder / "deep" / f"{name}.png")
        if text is not None:
            (folder / "deep" / f"{name}.txt").write_text(text)
    async with review(folder) as reader:
        view = await reader.view()
        assert [item["key"] for item in view["items"]] == [f"deep/{n}.png" for n in "bcad"]
        assert view["items"][0]["glitch"] == "repetition"
        assert "no caption" in view["items"][1]["why"]

        for item, text in zip(view["items"], ("B.", "C.", "A.", "D."), strict=True):
            assert (await reader.edit(item, text)).status_code == 200
        assert (folder / "deep" / "c.txt").read_text() == "C."
        assert (folder / "deep" / "d.txt").read_text() == "D.\n"
        for _ in range(4):
            assert (await reader.undo()).status_code == 200
        assert not (folder / "deep" / "c.txt").exists()
        assert (folder / "deep" / "b.txt").read_text() == LOOP


async def test_an_accepted_glitch_of_a_plain_folder_stays_accepted(
    review: Review, folder: Path
) -> None:
    picture(folder / "a.png")
    (folder / "a.txt").write_text(LOOP)
    async with review(folder) as reader:
        item = await reader.item("a.png")
        await reader.edit(item, item["caption"], what="accept")
        assert (await reader.item("a.png"))["outcome"] == "ok"
    async with review(folder) as reader:
        assert (await reader.item("a.png"))["outcome"] == "ok"
        (folder / "a.txt").write_text(LOOP + LOOP)
        assert (await reader.item("a.png"))["outcome"] == "glitched"


ODD = [
    "two words.png",
    "ünï cödé.png",
    "line\nbreak.png",
    "-dash.png",
    "a'b\"c<d>.png",
    "b\udcff.png",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
async def test_odd_names_work(review: Review, folder: Path, name: str) -> None:
    path = picture(folder / name)
    path.with_suffix(".txt").write_text(LOOP)
    async with review(folder) as reader:
        (item,) = (await reader.view())["items"]
        shown = await reader.client.get(f"{reader.at}/picture/{item['id']}")
        assert shown.headers["content-type"] == "image/jpeg"
        assert (await reader.edit(item, "Good.")).status_code == 200
    assert path.with_suffix(".txt").read_text() == "Good."


async def test_pictures_are_kept_by_browsers_and_outside_of_the_users_folder(
    review: Review, folder: Path, tmp_path: Path
) -> None:
    make_job(folder)
    async with review(folder) as reader:
        item = await reader.item("good 0.png")
        at = f"{reader.at}/picture/{item['id']}"
        first = await reader.client.get(at, params={"version": item["version"]})
        again = await reader.client.get(at, headers={"If-None-Match": first.headers["etag"]})

        assert "immutable" in first.headers["cache-control"]
        assert again.status_code == 304
        picture(folder / "good 0.png", (1, 2, 3))
        os.utime(folder / "good 0.png", (1, 1))
        other = await reader.client.get(at, headers={"If-None-Match": first.headers["etag"]})
        assert other.status_code == 200
        assert other.content != first.content
    assert len(list((tmp_path / "cache").rglob("*.jpg"))) == 2
    assert {path.suffix for path in folder.iterdir()} == {".png", ".txt", ""}


async def test_a_picture_that_cannot_be_read_is_drawn_with_the_reason(
    review: Review, folder: Path
) -> None:
    make_job(folder)
    (folder / "good 0.png").write_bytes(b"not a picture")
    (folder / "good 1.png").unlink()
    async with review(folder) as reader:
        for key, reason in (("good 0.png", "It is no picture"), ("good 1.png", "No such file")):
            item = await reader.item(key)
            shown = await reader.client.get(f"{reader.at}/picture/{item['id']}")

            assert shown.headers["content-type"] == "image/svg+xml"
            assert reason in shown.text
            assert shown.headers["cache-control"] == "no-store"


async def test_nothing_outside_of_the_roots_is_shown_or_written(
    review: Review, folder: Path, tmp_path: Path
) -> None:
    secret = picture(tmp_path / "secret.png")
    words = tmp_path / "secret.txt"
    words.write_text("Secret words.")
    make_job(folder, bad=0)
    (folder / "good 0.png").unlink()
    (folder / "good 0.png").symlink_to(secret)
    (folder / "good 1.txt").unlink()
    (folder / "good 1.txt").symlink_to(words)
    settings = job_of(folder, [])
    write_journal(folder, [row("../secret.png", settings), row(str(secret), settings)], number=2)
    async with review(folder) as reader:
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


async def test_a_file_that_is_no_text_is_left_as_it_is(review: Review, folder: Path) -> None:
    make_job(folder)
    (folder / "good 0.txt").write_bytes(b"\xff\xfe\x00")
    async with review(folder) as reader:
        item = await reader.item("good 0.png")
        refused = await reader.edit(item, "Mine.")

        assert refused.status_code == 400
        assert "UTF-8" in refused.json()["error"]["message"]
    assert (folder / "good 0.txt").read_bytes() == b"\xff\xfe\x00"


async def test_an_empty_text_is_no_caption(review: Review, folder: Path) -> None:
    make_job(folder)
    async with review(folder) as reader:
        refused = await reader.edit(await reader.item("good 0.png"), "  \n")

        assert refused.status_code == 400
    assert (folder / "good 0.txt").read_text() == GOOD


async def test_several_folders_are_offered(review: Review, folder: Path, tmp_path: Path) -> None:
    make_job(folder / "one")
    make_job(folder / "two <b>")
    picture(tmp_path / "plain" / "a.png")
    async with review(folder, tmp_path / "plain") as reader:
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


async def test_requests_that_make_no_sense_are_refused(review: Review, folder: Path) -> None:
    make_job(folder)
    async with review(folder) as reader:
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


async def _statuses(folder: Path, requests: list[tuple[str, Any]]) -> list[int]:
    app = make_app(Context(Captioner("http://127.0.0.1:1/v1"), roots=(folder,)))
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
